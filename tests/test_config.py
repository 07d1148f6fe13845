"""Settings are checked when they are made."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import numpy as np
import pytest

from smart_rag.config import FirstStageName, IndexConfig, check_choice, check_count, check_fraction, check_weights
from smart_rag.errors import InvalidInput


@pytest.mark.parametrize("value", [0, -1, 1.0, "1", True, None])
def test_a_count_is_a_whole_number_of_at_least_1(value):
    check_count("top_k", 1)
    with pytest.raises(InvalidInput, match=rf"top_k must be a whole number of at least 1, got {value!r}"):
        check_count("top_k", value)


@pytest.mark.parametrize("value", [10_001, 1 << 62, 10**400])
def test_a_setting_that_no_graph_needs(value):
    IndexConfig(hnsw_max_neighbors=10_000)
    with pytest.raises(InvalidInput, match="hnsw_max_neighbors must be at most 10,000, got "):
        IndexConfig(hnsw_max_neighbors=value)


def test_numbers_of_numpy_are_numbers():
    assert type(check_count("top_k", np.int64(3))) is int
    assert type(check_fraction("mmr_lambda", np.float32(0.5))) is float
    assert check_weights(np.asarray([1, 2], dtype=np.float32)) == (1.0, 2.0)
    config = IndexConfig(
        chunk_tokens=np.int32(50), chunk_overlap=np.int8(3), hnsw_ef_search=np.int64(7), weights=np.ones(2)
    )
    assert json.loads(json.dumps(asdict(config))) == {**asdict(config), "weights": [1.0, 1.0]}


@pytest.mark.parametrize("value", [-0.1, 1.1, "1", True, None, float("nan"), np.float32("nan")])
def test_a_fraction_is_from_0_to_1(value):
    with pytest.raises(InvalidInput, match="mmr_lambda"):
        check_fraction("mmr_lambda", value)


def test_a_choice_is_one_of_a_literal():
    check_choice("first_stage", "terms", FirstStageName)
    with pytest.raises(InvalidInput, match="first_stage must be one of auto, terms, pooled, exhaustive, got 'all'"):
        check_choice("first_stage", "all", FirstStageName)


@pytest.mark.parametrize("weights", [(1,), (1, 2, 3), (-1, 1), (0, 0), (math.nan, 1), (math.inf, 1), ("a", 1), 1])
def test_weights_are_two_numbers(weights):
    assert check_weights([1, 0]) == (1.0, 0.0)
    with pytest.raises(InvalidInput, match=r"weights must be two numbers \(pooled, late\)"):
        check_weights(weights)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"weighting": "tf"}, "weighting must be one of idf, none, contrast"),
        ({"chunk_tokens": 0}, "chunk_tokens must be"),
        (
            {"chunk_tokens": 10, "chunk_overlap": 10},
            r"chunk_overlap must be a whole number, at least 0 and below chunk_tokens \(10\)",
        ),
        ({"chunk_overlap": "a"}, "chunk_overlap must be a whole number"),
        ({"hnsw_ef_search": 0}, "hnsw_ef_search must be a whole number of at least 1, got 0"),
        ({"hnsw_max_neighbors": 1}, "hnsw_max_neighbors must be from 2 to 10,000, got 1"),
        ({"hnsw_ef_construction": 2**62}, "hnsw_ef_construction must be at most 1,000,000, got "),
        ({"chunk_overlap": -1}, "chunk_overlap must be a whole number, at least 0"),
        ({"weights": (0, 0)}, "weights must be"),
    ],
)
def test_wrong_settings_of_an_index(setting, message):
    with pytest.raises(InvalidInput, match=message):
        IndexConfig(**setting)


def test_weights_from_a_manifest_become_a_tuple():
    assert IndexConfig(weights=[1, 2]).weights == (1.0, 2.0)
