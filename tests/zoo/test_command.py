"""`torchpare zoo`: what it runs, what it writes, and the codes it ends with."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from torchpare.cli import app
from torchpare.errors import ConfigError, FileError, MissingExtraError
from torchpare.zoo import command, page, suites
from torchpare.zoo.results import Result, Stage, SuiteResults, read_results, write_results
from torchpare.zoo.suites import Suite

NAMES = ("a", "b", "c", "d", "e")
TIMES = "\N{MULTIPLICATION SIGN}"


@pytest.fixture
def asked(monkeypatch) -> list[tuple]:
    """A suite of five models of which only `c` fails, without processes; what the sweep was asked for."""
    calls: list[tuple] = []

    def sweep(module, names, settings, on_result):
        calls.append((module, list(names), settings))
        found = [result(name, reason="proof" if name == "c" else None) for name in names]
        for each in found:
            on_result(each)
        return found

    monkeypatch.setattr(command, "sweep", sweep)
    monkeypatch.setitem(suites.SUITES, "five", Suite("tests.zoo.test_command"))
    return calls


def result(name: str, reason=None, seconds: float = 1.0, **facts) -> Result:
    stage = Stage(name="shrink", seconds=seconds, reason=reason, detail="too far" if reason else "")
    return Result(model=name, done=True, stages=(stage,), **facts)


def whole(*results: Result, **facts) -> SuiteResults:
    return SuiteResults(**({"suite": "custom", "ratio": 0.5, "onnx": True, "versions": {}} | facts), results=results)


def zoo(*words: object):
    return CliRunner().invoke(app, ["zoo", *map(str, words)], terminal_width=200)


def test_zero_if_all_are_well_and_one_if_some_are_missed(asked):
    assert zoo("--suite", "five", "--models", "a,b").exit_code == 0
    done = zoo("--suite", "five")
    assert done.exit_code == 1
    assert f"five: 4 of 5 models (80.0 %); missed: 1 {TIMES} proof" in done.stdout
    assert [names for _, names, _ in asked] == [["a", "b"], list(NAMES)]


def test_the_settings_reach_the_sweep(asked):
    zoo("--suite", "five", "--ratio", 0.3, "--no-onnx", "--jobs", 3, "--limit-seconds", 7, "--chunk", "2/2")
    ((module, names, settings),) = asked
    assert module == "tests.zoo.test_command"
    assert names == ["b", "d"]
    assert (settings.ratio, settings.onnx, settings.jobs, settings.limit) == (0.3, False, 3, 7)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--suite", "six"], "there is no suite 'six'; there are torchvision, timm"),
        (["--suite", "five", "--models", "a,x"], "has no model 'x'; it has a, b, c, d, e"),
        (["--suite", "five", "--models", ","], "names no model"),
        (["--suite", "five", "--chunk", "3/2"], "'3/2' is not understood"),
        (["--suite", "five", "--chunk", "two"], "'two' is not understood"),
        (["--suite", "five", "--ratio", "1.5"], "should be less than or equal to 0.99"),
        (["--suite", "five", "--json", "/no/such/folder/x.json"], "there is no folder /no/such/folder"),
        (["--render", "page.md"], "go together"),
        (["results.json"], "go together"),
        (["--wrong"], "--wrong"),
    ],
)
def test_two_if_the_command_is_not_understood_and_nothing_is_run(asked, words, told):
    done = zoo(*words)
    assert done.exit_code == 2
    assert told in " ".join(done.output.replace("│", " ").split())
    assert not asked


def test_a_suite_whose_library_is_missing_is_told_with_the_remedy(monkeypatch):
    monkeypatch.setitem(suites.SUITES, "five", Suite("tests.zoo.test_command", library="no_such_library"))
    with pytest.raises(MissingExtraError, match=r"needs no_such_library.*pip install 'torchpare\[zoo\]'"):
        suites.names("five")


def test_a_whole_run_writes_its_results_anew_and_a_partial_one_adds_them(asked, tmp_path):
    path = tmp_path / "five.json"
    zoo("--suite", "five", "--json", path, "--models", "e,c")
    assert [each.model for each in read_results(path).results] == ["c", "e"]
    zoo("--suite", "five", "--json", path, "--chunk", "1/5")
    assert [each.model for each in read_results(path).results] == ["a", "c", "e"]
    assert not read_results(path).results[1].ok
    zoo("--suite", "five", "--json", path)
    assert [each.model for each in read_results(path).results] == list(NAMES)
    assert not list(tmp_path.glob("*.tmp"))


def test_newer_results_take_the_place_of_older_ones():
    old, new = whole(result("a"), result("b", seconds=1), result("gone")), whole(result("b", seconds=9))
    merged = old.merged(new, ["b", "a"])
    assert [(each.model, each.seconds) for each in merged.results] == [("b", 9), ("a", 1)]


@pytest.mark.parametrize("other", [{"ratio": 0.3}, {"suite": "timm"}, {"onnx": False}, {"versions": {"torch": "9"}}])
def test_results_of_another_kind_are_not_mixed(other):
    with pytest.raises(FileError, match="write to another file, or run the whole suite again"):
        whole(result("a")).merged(whole(result("b"), **other), ["a", "b"])


def test_a_foreign_file_is_refused_before_anything_is_run(asked, tmp_path):
    path = tmp_path / "five.json"
    path.write_text('{"suite": "five", "ratio": "half"}')
    done = zoo("--suite", "five", "--json", path, "--models", "a")
    assert done.exit_code == 2
    assert "holds no results of torchpare zoo" in " ".join(done.output.replace("│", " ").split())
    assert not asked
    assert "half" in path.read_text()


def test_results_survive_being_written_and_read(tmp_path):
    results = whole(
        result("a", parameters_before=100, parameters_after=25, largest_difference=1e-16, exact=False,
               changes={"layer_norm": 3}, unknown={"aten.x": "fc"}),
        Result(model="b", largest_difference=float("nan")),
    )  # fmt: skip
    write_results(results, tmp_path / "x.json")
    again = read_results(tmp_path / "x.json")
    assert again.results[0] == results.results[0]
    assert again.results[1].largest_difference is None


def test_the_page_has_a_table_and_a_line_for_each_suite(tmp_path):
    excused = Stage(name="onnx", seconds=2, reason="onnx", detail="onnx: dense fails too: no | export", excused=True)
    good = result("good_one", parameters_before=100, parameters_after=25, largest_difference=1.24e-16, exact=True)
    changed = result("changed", exact=False, changes={"layer_norm": 3, "softmax": 1})
    nots = changed.model_copy(update={"stages": (*changed.stages, excused)})
    write_results(whole(result("x", reason="train"), suite="custom", onnx=False), tmp_path / "1.json")
    write_results(whole(good, nots, suite="timm", versions={"torch": "2", "timm": "1"}), tmp_path / "2.json")
    done = zoo("--render", tmp_path / "zoo.md", tmp_path / "1.json", tmp_path / "2.json")
    assert done.exit_code == 0, done.output
    text = (tmp_path / "zoo.md").read_text()
    assert text.index("## timm") < text.index("## custom")  # as the suites are ordered, not the files
    assert f"- timm: 2 of 2 models (100.0 %); not counted, for the dense model fails too: 1 {TIMES} onnx\n" in text
    assert f"- custom: 0 of 1 models (0.0 %); missed: 1 {TIMES} train\n" in text
    assert f"| good\\_one | ok | 25.0 % | 1.2 {TIMES} 10⁻¹⁶ | exact | 1.0 |  |\n" in text
    assert f"| changed | ok |  |  | layer\\_norm {TIMES} 3, softmax {TIMES} 1 | 3.0 | onnx: dense" in text
    assert ": dense fails too: no \\| export |\n" in text
    assert "| x | missed |  |  |  | 1.0 | train: too far |\n" in text
    assert "With torch 2, timm 1." in text
    assert "Not exported to ONNX" in text[text.index("## custom") :]


def test_an_unfinished_model_is_a_miss():
    assert not Result(model="a").ok
    assert "0 of 1" in page.summary(whole(Result(model="a")))


def test_the_names_that_are_asked_for():
    with pytest.raises(ConfigError, match="has no model"):
        command.chosen("torchvision", "resnet19", None)
    assert command.chosen("torchvision", "vgg11, resnet18", None) == ["vgg11", "resnet18"]


def test_a_real_model_comes_through_in_a_process_of_its_own(tmp_path):
    path = tmp_path / "torchvision.json"
    done = zoo("--models", "squeezenet1_1", "--no-onnx", "--json", path, "--markdown", tmp_path / "zoo.md")
    assert done.exit_code == 0, done.output
    (found,) = read_results(path).results
    assert found.exact
    assert found.kept is not None
    assert found.kept < 0.4
    assert "| squeezenet1\\_1 | ok |" in (tmp_path / "zoo.md").read_text()
