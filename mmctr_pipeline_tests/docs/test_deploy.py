"""docs/deploy.md names only files, tests and variables that exist."""

import re

from mmctr_pipeline_tests.defs.running import REPOSITORY

TEXT = (REPOSITORY / "docs" / "deploy.md").read_text(encoding="utf-8")


def test_the_tests_and_folders_that_it_names_exist() -> None:
    tests = re.findall(r"`(deploy/test_\w+\.py)`", TEXT)
    assert len(tests) == 3
    for path in tests:
        assert (REPOSITORY / "mmctr_pipeline_tests" / path).is_file()
    for path in ("Dockerfile", "deploy/single_host", "deploy/kubernetes"):
        assert f"`{path}" in TEXT
        assert (REPOSITORY / path).exists()


def test_the_image_can_be_named_by_the_documented_command() -> None:
    [pattern, name] = re.findall(r"sed -i 's#(.+?)#(.+?)#'", TEXT)[0]
    python = pattern.replace(r"\(", "(").replace(r"\)", ")").replace(r"\|", "|")
    folder = REPOSITORY / "deploy" / "kubernetes"
    texts = [re.sub(python, name, path.read_text()) for path in folder.glob("*.yaml")]
    assert len(re.findall(r"registry\.example\.com/mmctr-pipeline:1$", "\n".join(texts), re.M)) == 4
    assert "value: registry.example.com/mmctr-pipeline:1}" in "\n".join(texts)
