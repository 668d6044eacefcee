V3: dict[str, dict[str, str]] = {}
