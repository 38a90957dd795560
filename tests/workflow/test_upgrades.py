"""Another version of nightflow, or other options: what they made is told apart, done again, and never mixed."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from astropy.io import fits

from nightflow import __version__, verify

pytestmark = pytest.mark.workflow

IMAGES = ("calibrated", "masked", "subtracted", "sources")


@pytest.fixture
def verified(capsys):
    """Function that runs the command `verify` and gives the products found wrong by folder, and what was printed."""

    def run(workspace):
        code = verify.main([str(workspace.results)])
        printed = capsys.readouterr().out
        found = {match[1] for match in re.finditer(r"^(\S+)/\S+: \w", printed, re.MULTILINE)}
        assert bool(code) == bool(found)
        return {folder.split("/")[0] for folder in found}, printed

    return run


def versions(workspace):
    return Counter(fits.getheader(path)["NFVERS"] for path in workspace.results.rglob("*.fits"))


def test_products_of_an_older_version_are_done_again(own_checkout, verified, monkeypatch):
    """Step by step: what is not done yet is known for what it is, and no product is made of both."""
    init = own_checkout.checkout / "workflow" / "scripts" / "nightflow" / "__init__.py"
    new = f"{__version__}.post1"
    init.write_text(init.read_text().replace(f'"{__version__}"', f'"{new}"'))
    monkeypatch.setattr(verify, "__version__", new)
    made = versions(own_checkout)
    assert set(made) == {__version__}

    jobs = own_checkout.planned()
    assert jobs["calibrate"] == jobs["mask"] == jobs["sky"] == 3 and jobs["stack"] == 1 and jobs["master_bias"] == 1
    folders, printed = verified(own_checkout)
    assert folders == {"masters", *IMAGES, "stacks", "catalogues"}
    assert (
        f"made by version {__version__}; the present one is {new}" in printed and verify._ADVICE["outdated"] in printed
    )

    own_checkout.run("--until", "mask")
    folders, printed = verified(own_checkout)
    assert folders == {"subtracted", "sources", "stacks", "catalogues"}

    own_checkout.run()
    assert versions(own_checkout) == {new: made.total()}
    assert verified(own_checkout)[0] == set() and not own_checkout.planned()


def test_products_of_another_configuration_are_told(workspace, verified):
    """From the step on that the option belongs to."""
    assert workspace.planned(sky={"sigma": 3.0})["sky"] == 3
    folders, printed = verified(workspace)
    assert folders == {"subtracted", "sources", "stacks", "catalogues"} and "made with other options" in printed
    assert not workspace.planned() and verified(workspace)[0] == set()
