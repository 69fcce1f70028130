import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional

from ppml.config.arm import Arm
from ppml.io.canonical_json import digest
from ppml.results.rows import Run, client_rows, cost_row, history_rows, record_row

N_TEST, N_ALL, CLASSES = 40, 100, 10
LABELS = np.random.default_rng(1).integers(0, CLASSES, N_ALL)
PARTITION = {"clients": [[0, 3], [1], [2, 4, 5]], "labels": [[1, 1, 0], [0, 1, 0], [1, 0, 2]]}


def log_probabilities(models):
    logits = torch.randn(models, N_ALL, CLASSES, generator=torch.Generator().manual_seed(2))
    return logits.log_softmax(dim=2).numpy()


def make_run(arm=None, *, models=1, privacy=None, partition=None, bytes_up=0, **changes):
    """Return a run; by default of one owner without privacy."""
    run = Run(
        arm="made",
        config={
            "arm": Arm.model_validate(arm or {}).technique(),
            "dataset": "mnist",
            "root_seed": 2024,
            "device": "cpu",
            "seed": 3,
            "data": {
                "n_train": 6,
                "n_test": N_TEST,
                "n_test_all": N_ALL,
                "evaluate_on": "test",
                "digest": "0123456789abcdef",
                "contract": {"kind": "image", "shape": [1, 2, 2], "classes": [str(label) for label in range(CLASSES)]},
            },
        },
        privacy=privacy or {"unit": "none", "noise_by": "none", "epsilon": None},
        cost={"seconds": 1.5, "cpu_seconds": 1.25, "training_memory_mb": 300.0, "bytes_up": bytes_up, "bytes_down": 7},
        history=[{"step": 1, "train_loss": 0.5, "loss": 0.4, "accuracy": 0.8}, {"step": 2, "train_loss": 0.3}],
        predicted=log_probabilities(models).argmax(axis=2).astype(np.uint8),
        true_log_probabilities=log_probabilities(models)[:, np.arange(N_TEST), LABELS[:N_TEST]],
        labels=LABELS.astype(np.uint8),
        scores=None,
        parameters=1000,
        partition=partition,
    )
    return dataclasses.replace(run, **changes)


LOCAL = {"topology": {"kind": "independent", "partition": "p3"}}
FEDERATED = {"topology": {"kind": "federated", "partition": "p3", "rounds": 5}, "aggregation": {"kind": "ckks"}}
PRIVATE = {
    "unit": "example",
    "noise_by": "owner",
    "noise_source": "seeded",
    "epsilon": 2.0,
    "epsilons": [1.0, 2.0, 0.5],
    "delta": 1e-5,
    "accountant": "prv",
    "neighbouring": "zero_out_one",
    "sampling_source": "secure",
    "sampler": "poisson",
    "epsilon_replace_one": 4.4,
    "mechanism": "0123456789abcdef",
    "noise_multiplier": 1.1,
    "sample_rate": 0.5,
    "steps": 12,
    "max_grad_norm": 0.1,
}


RECORDED = PRIVATE.keys() - {"unit", "noise_by", "epsilons"}
"""The columns of records.csv with the same names."""


def test_accuracy_covers_the_first_n_test_and_accuracy_all_the_whole_file():
    run = make_run()
    right = log_probabilities(1)[0].argmax(axis=1) == LABELS
    row = record_row(run)
    assert (row["accuracy"], row["accuracy_all"]) == (right[:N_TEST].mean(), right.mean())
    assert row["accuracy"] != row["accuracy_all"]
    assert (row["n_test"], row["n_test_all"]) == (N_TEST, N_ALL)


def test_record_row_names_the_transforms_in_their_order():
    chain = {"transforms": [{"kind": "binned"}, {"kind": "patches", "mirror": True, "copies": 1}], "model": "linear"}
    assert record_row(make_run())["transforms"] == ""
    assert record_row(make_run(chain))["transforms"] == "binned+patches(mirror=True)"


@pytest.mark.parametrize("models", [1, 3])
def test_loss_matches_torch_cross_entropy_over_all_models(models):
    run = make_run(models=models)
    logits = torch.from_numpy(log_probabilities(models)[:, :N_TEST]).double().reshape(-1, CLASSES)
    expected = functional.cross_entropy(logits, torch.from_numpy(LABELS[:N_TEST]).repeat(models)).item()
    assert run.loss() == pytest.approx(expected, rel=1e-6)


def test_loss_sums_image_by_image_as_published_results_do():
    draws = np.random.default_rng(3)
    order_decides = False
    for models in range(2, 40):
        values = draws.random((models, N_TEST), dtype=np.float32) ** 3
        by_image = np.array([float(value) for image in values.T for value in image])
        assert make_run(true_log_probabilities=-values).loss() == by_image.mean()
        # The last digit, of some values: the processor decides of which.
        order_decides |= bool(by_image.mean() != values.astype(np.float64).mean())
    assert order_decides


def test_accuracy_of_independent_clients_is_the_mean_over_models():
    run = make_run(LOCAL, models=3, partition=PARTITION)
    each = (log_probabilities(3).argmax(axis=2) == LABELS)[:, :N_TEST].mean(axis=1)
    assert record_row(run)["accuracy"] == pytest.approx(each.mean())
    assert [row["accuracy"] for row in client_rows(run)] == each.tolist()


def test_clients_of_a_federation_have_equal_accuracy():
    run = make_run(FEDERATED, partition=PARTITION)
    assert {row["accuracy"] for row in client_rows(run)} == {record_row(run)["accuracy"]}


def test_client_rows_sum_to_the_counts_of_the_run():
    rows = client_rows(make_run(FEDERATED, partition=PARTITION, privacy=PRIVATE))
    assert [row["records"] for row in rows] == [len(part) for part in PARTITION["clients"]]
    assert sum(row["records"] for row in rows) == record_row(make_run())["n_train"]
    assert all(sum(row[f"label_{label}"] for label in range(3)) == row["records"] for row in rows)
    assert [row["client"] for row in rows] == [0, 1, 2]
    assert {row["partition"] for row in rows} == {"p3"}


def test_client_rows_have_the_epsilon_of_each_owner():
    rows = client_rows(make_run(FEDERATED, partition=PARTITION, privacy=PRIVATE))
    assert [row["epsilon"] for row in rows] == PRIVATE["epsilons"]
    assert [row["epsilon"] for row in client_rows(make_run(FEDERATED, partition=PARTITION))] == [None] * 3


def test_single_owner_has_no_client_rows():
    assert client_rows(make_run()) == []


def test_expansion_is_the_ratio_of_uploads_to_float32_updates():
    plain = 3 * 5 * 1000 * 4
    row = cost_row(make_run(FEDERATED, partition=PARTITION, bytes_up=10 * plain))
    assert (row["expansion"], row["clients"], row["rounds"]) == (10.0, 3, 5)
    assert (row["bytes_up"], row["bytes_down"]) == (10 * plain, 7)


@pytest.mark.parametrize(("arm", "partition"), [({}, None), (LOCAL, PARTITION)])
def test_cost_row_without_a_federation_has_no_expansion(arm, partition):
    row = cost_row(make_run(arm, partition=partition))
    assert (row["expansion"], row["rounds"], row["bytes_up"]) == (None, None, 0)


def test_history_rows_count_rounds_or_epochs():
    for arm, partition, unit in (({}, None, "epoch"), (FEDERATED, PARTITION, "round")):
        rows = history_rows(make_run(arm, partition=partition))
        found = [(row["arm"], row["seed"], row["unit"], row["step"]) for row in rows]
        assert found == [("made", 3, unit, step) for step in (1, 2)]


def test_record_row_without_privacy_has_empty_cells():
    row = record_row(make_run())
    assert (row["privacy_unit"], row["noise"]) == ("none", "none")
    assert all(row[key] is None for key in RECORDED)


def test_record_row_has_all_values_of_privacy():
    row = record_row(make_run(FEDERATED, partition=PARTITION, privacy=PRIVATE))
    assert {key: row[key] for key in RECORDED} == {key: PRIVATE[key] for key in RECORDED}
    assert row["privacy_unit"] == "example"


def test_record_row_has_the_visibility_of_updates_and_sums():
    assert record_row(make_run())["update_opened_by"] is record_row(make_run())["sum_seen_by"] is None
    seen = {}
    for aggregation in ("plaintext", "ckks", "bfv", "secret_sharing", "masking"):
        arm = {**FEDERATED, "aggregation": {"kind": aggregation}}
        seen[aggregation] = record_row(make_run(arm, partition=PARTITION))["update_opened_by"]
    assert seen == {
        "plaintext": "the server",
        "ckks": "the key holder together with the server",
        "bfv": "the key holder together with the server",
        "secret_sharing": "all 3 servers together",
        "masking": "3 of 3 clients together with the server",
    }
    shared = {**FEDERATED, "aggregation": {"kind": "ckks", "keys": "shared"}}
    opened = record_row(make_run(shared, partition=PARTITION))["update_opened_by"]
    assert opened == "any client together with the server"


def test_record_row_names_the_aggregation_of_federations_only():
    assert record_row(make_run())["aggregation"] == "none"
    assert record_row(make_run(LOCAL, models=3, partition=PARTITION))["aggregation"] == "none"
    assert record_row(make_run(FEDERATED, partition=PARTITION))["aggregation"] == "ckks"


@pytest.mark.parametrize(
    ("arm", "division"),
    [
        ({}, None),
        ({"topology": {"kind": "independent", "partition": "dirichlet-3-0.3"}}, "dirichlet"),
        ({"topology": {"kind": "federated", "partition": "iid-3-6", "rounds": 5}}, "iid"),
        ({"topology": {"kind": "federated", "partition": "shards-3-2", "rounds": 5}}, "shards"),
    ],
)
def test_record_row_names_the_kind_of_partition(arm, division):
    row = record_row(make_run(arm, partition=PARTITION if arm else None))
    assert row["division"] == division


def test_record_row_counts_examples_with_an_owner():
    some = {"clients": [[0], [4, 5]], "labels": [[1, 0, 0], [0, 1, 1]]}
    assert record_row(make_run())["n_train"] == 6
    assert record_row(make_run(FEDERATED, partition=PARTITION))["n_train"] == 6
    assert record_row(make_run(FEDERATED, partition=some))["n_train"] == 3


def test_config_digest_depends_on_the_training_only():
    base = make_run()
    same = make_run(arm={"label": "Another label"}, models=3)
    same = dataclasses.replace(same, arm="other", config={**same.config, "seed": 9})
    other = make_run({"training": {"epochs": 11}})
    assert record_row(base)["config_digest"] == record_row(same)["config_digest"] != record_row(other)["config_digest"]
    identity = {key: base.config[key] for key in ("arm", "dataset", "root_seed", "device")}
    assert record_row(base)["config_digest"] == digest(identity)
    assert record_row(base)["data_digest"] == "0123456789abcdef"


def test_record_rows_have_equal_columns():
    rows = [record_row(make_run()), record_row(make_run(FEDERATED, partition=PARTITION, privacy=PRIVATE))]
    assert list(rows[0]) == list(rows[1])
