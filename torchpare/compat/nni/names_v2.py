V2: dict[str, dict[str, str]] = {}
