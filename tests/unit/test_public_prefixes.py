"""Which tokens are public, and the files that say so."""

from pathlib import Path

import pytest

from engine.core_plugin.public_prefix import PublicSalt
from engine.public_prefixes import (
    MOST_BYTES,
    MOST_PREFIXES,
    PrefixesUnusable,
    PublicPrefixes,
    common_prefix,
    read_system_prompts,
)

ONE = list(range(10))
OTHER = [*range(4), 50, 51, 52, 53]


@pytest.mark.parametrize(
    ("prompt", "public"),
    [
        ([*ONE, 7, 7], 8),
        (ONE[:8], 8),
        (ONE[:7], 4),
        ([*OTHER, 1], 8),
        ([*range(4), 60], 4),
        ([1, *ONE], 0),
        ([], 0),
    ],
)
def test_whole_chunks_of_the_longest_prefix_are_public(prompt: list[int], public: int) -> None:
    assert PublicPrefixes([ONE, OTHER], chunk_tokens=4).tokens(prompt) == public


def test_what_is_shorter_than_a_chunk_is_not_shared() -> None:
    assert PublicPrefixes([ONE[:3]], chunk_tokens=4).prefixes == []
    assert PublicPrefixes([ONE[:3]], chunk_tokens=4).tokens(ONE) == 0


def test_what_two_renderings_have_in_common() -> None:
    assert common_prefix([1, 2, 3, 4], [1, 2, 9, 4]) == [1, 2]
    assert common_prefix([1, 2], [1, 2, 3]) == [1, 2]


def test_each_text_file_is_one_prompt(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("Second.\n\n")
    (tmp_path / "a.txt").write_text("Erste: ä\n")
    (tmp_path / "notes.md").write_text("Not one.")
    assert read_system_prompts(tmp_path) == {"a.txt": "Erste: ä", "b.txt": "Second.\n"}


def test_files_that_are_no_prompts_are_refused(tmp_path: Path) -> None:
    for content in (b"", b" \n", b"\xff\xfe", b"x" * (MOST_BYTES + 1)):
        (tmp_path / "a.txt").write_bytes(content)
        with pytest.raises(PrefixesUnusable, match=r"a\.txt"):
            read_system_prompts(tmp_path)


def test_folders_that_hold_none_or_too_many_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PrefixesUnusable, match="no public prefix"):
        read_system_prompts(tmp_path)
    with pytest.raises(PrefixesUnusable, match="cannot be read"):
        read_system_prompts(tmp_path / "none")
    for number in range(MOST_PREFIXES + 1):
        (tmp_path / f"{number}.txt").write_text("x")
    with pytest.raises(PrefixesUnusable, match="more than"):
        read_system_prompts(tmp_path)


def test_a_salt_that_is_all_the_tenants_is_not_a_public_one() -> None:
    salt = PublicSalt(256, "ab" * 32)
    assert PublicSalt.parse(str(salt)) == salt
    assert PublicSalt.parse("ab" * 32) is None
    assert PublicSalt.parse(None) is None
