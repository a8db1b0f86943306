"""XXH64 against published values, and the generator."""

import pytest

from fastmesh._native.lb._t_lb import mix, random_below, random_words, xxh64


@pytest.mark.parametrize(
    ("text", "seed", "expected"),
    [
        (b"", 0, 0xEF46DB3751D8E999),
        (b"a", 0, 0xD24EC4F1A98C6E5B),
        (b"abc", 0, 0x44BC2CF5AD770999),
        (b"Nobody inspects the spammish repetition", 0, 0xFBCEA83C8A378BF1),
    ],
)
def test_published_values(text, seed, expected):
    assert xxh64(text, seed) == expected


def test_a_seed_changes_the_hash():
    assert len({xxh64(b"10.0.0.1:80", seed) for seed in range(100)}) == 100


def test_splitmix64_gives_its_published_sequence():
    assert random_words(1234567, 3) == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_below_stays_below_and_reaches_all():
    assert set(random_below(3, 5, 200)) == {0, 1, 2, 3, 4}


def test_mix_keeps_values_apart():
    assert len({mix(value) for value in range(1000)}) == 1000
