"""The licence of a base model, as its card says it."""

import pytest

from rats_jax.errors import ConfigError
from rats_jax.student import terms
from rats_jax.student.terms import describe_terms, find_terms

FLUX = """---
license: other
license_name: flux-1-dev-non-commercial-license
license_link: LICENSE.md
tags: [text-to-image]
---
"""


def test_name_and_link_of_a_licence_of_its_own_are_kept(tmp_path, monkeypatch):
    card = tmp_path / "README.md"
    card.write_text(FLUX)
    link = {"license_link": "LICENSE.md"}
    found = {"license": "other", "license_name": "flux-1-dev-non-commercial-license", **link}
    assert find_terms(str(tmp_path)) == found
    assert describe_terms(found) == "[flux-1-dev-non-commercial-license](LICENSE.md)"
    monkeypatch.setattr(terms, "find_file", lambda *_: card)
    whole = "https://huggingface.co/owner/name/blob/main/LICENSE.md"
    assert find_terms("owner/name")["license_link"] == whole
    assert find_terms("owner/name@v1")["license_link"] == whole.replace("main", "v1")


@pytest.mark.parametrize(
    ("text", "licence", "said"),
    [
        ("---\nlicense: mit\n---\n", "mit", "mit"),
        ("---\nlicense:\n- mit\n- apache-2.0\n---\n", ["mit", "apache-2.0"], "mit, apache-2.0"),
        ("---\ntags: [a]\n---\n", None, ""),
        ("license: mit, says the text\n", None, ""),
    ],
)
def test_licences_are_read_as_yaml(tmp_path, text, licence, said):
    (tmp_path / "README.md").write_text(text)
    found = find_terms(str(tmp_path))
    assert found.get("license") == licence and describe_terms(found) == said


def test_a_model_without_a_card_has_none(tmp_path):
    (tmp_path / "model_index.json").write_text("{}")
    assert find_terms(str(tmp_path)) == {} and describe_terms({}) == ""


def test_a_head_that_is_no_yaml_is_named(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: [mit\n---\n")
    with pytest.raises(ConfigError, match="^'.*README.md': expected YAML between its first lines of ---"):
        find_terms(str(tmp_path))
