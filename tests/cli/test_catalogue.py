"""The list of methods is that of the code, and each line says something."""

from jaxdistill.cli import catalogue
from jaxdistill.engine.optimizer import OPTIMIZERS
from jaxdistill.methods import registry
from jaxdistill.models.registry import families


def test_everything_is_listed_with_one_line():
    found = catalogue.methods()
    names: dict[str, set[str]] = {}
    for method in found:
        names.setdefault(method.kind, set()).add(method.name)
        assert method.summary
        assert "\n" not in method.summary
    assert names["loss"] == set(registry.methods())
    assert names["optimizer"] == set(OPTIMIZERS)
    assert names["schedule"] == {"constant", "linear", "cosine"}
    assert {name.split(",")[0] for name in names["model family"]} == set(families())
    assert "digits" in names["data source"]
    assert any(name.startswith("files:") for name in names["data source"])


def test_papers_come_with_their_numbers():
    papers = {method.name: method.paper for method in catalogue.methods()}
    assert papers["forward_kl"] == "arXiv 1503.02531"
    assert papers["hidden_mse"] == "arXiv 1412.6550"
    assert papers["adamw"] == "arXiv 1711.05101"
    assert "2019" in papers["bert"]
    families_without = [f for f in families() if not papers.get(f)]
    assert not families_without


def test_first_sentence():
    def documented():
        """Does one `x. y` thing
        over lines. Another sentence.

        More.
        """

    assert catalogue.first_sentence(documented) == "Does one `x. y` thing over lines"
    assert catalogue.first_sentence(lambda: None) == ""


def test_described_as_one_line_each():
    lines = catalogue.describe_methods().splitlines()
    entries = [line for line in lines if line.startswith("  ")]
    assert len(entries) == len(catalogue.methods())
    assert lines[0] == "task:"
