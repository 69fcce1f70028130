"""The errors of a configuration: each names the key, the value and the allowed values."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from ppml.aggregation.fixed_point import FixedPointCodec
from ppml.config.load import load_config, parse_config
from ppml.errors import UserError

from .small import FEDERATED, PRIVATE, check_refused, one_arm, small

OWN_DATA = {
    "kind": "idx",
    "files": [{"name": f"{number}.gz", "md5": f"{number:032x}"} for number in range(4)],
    "shape": [1, 28, 28],
    "classes": 2,
}
INDEPENDENT = {"kind": "independent", "partition": "iid8"}


def federated(**aggregation: Any) -> dict[str, Any]:
    """Return a federated arm with ``aggregation``."""
    return one_arm(topology=FEDERATED, aggregation=aggregation)


def with_clients(clients: int, **aggregation: Any) -> dict[str, Any]:
    """Return the same with a number of clients, one example each."""
    content = federated(**aggregation)
    return {**content, "data": {"train": clients}, "partitions": {"iid8": {"kind": "iid", "clients": clients}}}


def with_experiment(**keys: Any) -> dict[str, Any]:
    """Return an experiment with the arm ``fl``; ``keys`` replace its own."""
    return small(experiments={"e": {"title": "T", "arms": ["fl"], **keys}})


def divided(kind: str, clients: int, topology: dict[str, Any] = FEDERATED, **keys: Any) -> dict[str, Any]:
    """Return an arm whose clients divide 100 examples."""
    partition = {"kind": kind, "clients": clients, **keys}
    return small(data={"train": 100}, partitions={"iid8": partition}, arms={"a": {"topology": topology}})


PARTITIONS: list[dict[str, Any]] = [
    {"kind": kind, "topology": topology, **keys}
    for kind, keys in (("iid", {}), ("shards", {"shards_per_client": 1}), ("dirichlet", {"alpha": 1.0}))
    for topology in (FEDERATED, INDEPENDENT)
]
SCATTERING = {"transforms": [{"kind": "scattering"}], "model": "linear"}
SENTENCE = {"quote": "They say so.", "criterion": "rises_with_epsilon", "arms": ["fl", "dp"]}


def claiming(**keys: Any) -> dict[str, Any]:
    """Return an experiment with one claim; ``keys`` replace its own."""
    arms = {"fl": {"topology": FEDERATED}, "dp": {"privacy": PRIVATE}, "dp2": {"privacy": PRIVATE}}
    experiment = {"title": "T", "arms": ["fl"], "tables": ["claims"], "claims": [{**SENTENCE, **keys}]}
    return small(arms=arms, experiments={"e": experiment})


REFUSED = [
    # Unknown keys.
    (small(sed=1), "unknown key 'sed'", "did you mean 'seed'? allowed: arms, "),
    (
        one_arm(training={"lerning_rate": 0.1}),
        "arms.a.training: unknown key 'lerning_rate'",
        "did you mean 'learning_rate'? allowed: batch_size, ",
    ),
    (
        one_arm(privacy={**PRIVATE, "epsilonn": 1.0}),
        "arms.a.privacy: unknown key 'epsilonn'",
        "did you mean 'epsilon'? allowed: accountant, ",
    ),
    (one_arm(privacy={"kind": "none", "epsilon": 1.0}), "arms.a.privacy: unknown key 'epsilon'", "allowed: kind"),
    (with_experiment(figure=[]), "experiments.e: unknown key 'figure'", "did you mean 'figures'? allowed: arms, "),
    (small(folders={"artefacts": "x"}), "folders: unknown key 'artefacts'", "did you mean 'artifacts'? allowed: "),
    # Wrong types.
    (small(data={"train": "1000"}), "data.train: got '1000'", "valid integer (YAML reads it as text: write 1000"),
    (small(data={"train": 10.5}), "data.train: got 10.5", "valid integer"),
    (small(data={"train": True}), "data.train: got True", "valid integer"),
    (small(data={"download": "no"}), "data.download: got 'no'", "valid boolean"),
    (small(data=[1]), "data: got [1]", "expected keys and values"),
    (small(data={"mirrors": "/data"}), "data.mirrors: got '/data'", "expected a list"),
    (small(seeds=3), "seeds: got 3", "expected a list"),
    (small(seeds=["a"]), "seeds.0: got 'a'", "valid integer"),
    (small(arms=None), "arms: got None", "expected keys and values"),
    (one_arm(label=3), "arms.a.label: got 3", "valid string (write text that is a number in quotes)"),
    (one_arm(privacy=3), "arms.a.privacy: got 3", "expected keys and values"),
    (one_arm(training={"learning_rate": "fast"}), "arms.a.training.learning_rate: got 'fast'", "valid number"),
    ([1], "expected keys and values at the top level", "got list"),
    (None, "expected keys and values at the top level", "got NoneType"),
    # Values out of range.
    (one_arm(privacy={"kind": "example", "epsilon": 0.0}), "arms.a.privacy.epsilon: got 0.0", "greater than 0"),
    (one_arm(privacy={"kind": "example", "epsilon": -1}), "arms.a.privacy.epsilon: got -1", "greater than 0"),
    (one_arm(privacy={"kind": "example", "epsilon": math.inf}), "arms.a.privacy.epsilon: got inf", "finite number"),
    (one_arm(privacy={**PRIVATE, "delta": 1.0}), "arms.a.privacy.delta: got 1.0", "less than or equal to 0.5"),
    (
        one_arm(privacy={**PRIVATE, "accountant": "moments"}),
        "arms.a.privacy.accountant: got 'moments'",
        "'tightest', 'prv', 'rdp', 'pld' or 'gdp'",
    ),
    (one_arm(training={"epochs": 0}), "arms.a.training.epochs: got 0", "greater than or equal to 1"),
    (one_arm(training={"learning_rate": math.nan}), "arms.a.training.learning_rate: got nan", "finite number"),
    (one_arm(training={"momentum": 1.0}), "arms.a.training.momentum: got 1.0", "less than 1"),
    (small(seed=-1), "seed: got -1", "greater than or equal to 0"),
    (small(device="gpu"), "device: got 'gpu'", "did you mean 'cuda'?"),
    (small(seeds=[-1]), "seeds.0: got -1", "greater than or equal to 0"),
    (one_arm(seeds=[2**63]), f"arms.a.seeds.0: got {2**63}", f"less than or equal to {2**63 - 1}"),
    (small(seeds=[0, 1, 0]), "seeds: [0, 1, 0] names a seed twice"),
    (one_arm(seeds=[3, 3]), "arms.a.seeds: [3, 3] names a seed twice"),
    (one_arm(topology={"kind": "federated", "partition": "iid8"}), "arms.a.topology.rounds", "is missing"),
    # An arm may have the name of a kind.
    (small(arms={"independent": {"training": {"epochs": 0}}}), "arms.independent.training.epochs: got 0"),
    (
        federated(kind="ckks", poly_modulus_degree=2048),
        "arms.a.aggregation.poly_modulus_degree: got 2048",
        "4096, 8192, 16384 or 32768",
    ),
    *(
        (
            federated(kind="ckks", coeff_mod_bit_sizes=sizes),
            f"arms.a.aggregation: coeff_mod_bit_sizes {sizes}",
            "two primes of 30 to 60 bits",
        )
        for sizes in ([54], [29, 60], [61, 40], [])
    ),
    *(
        (
            one_arm(training={"batch_size": value}),
            f"arms.a.training.batch_size: got {value!r}",
            "integer of at least 1, or 'all'",
        )
        for value in (0, -1, 2.5, True, "every", None)
    ),
    *(
        (one_arm(privacy={**PRIVATE, key: "1e-5"}), f"arms.a.privacy.{key}: got '1e-5'", "number", "write 1.0e-5")
        for key in ("delta", "epsilon", "max_grad_norm")
    ),
    (federated(kind="plaintext", clip=2.0**-21), "arms.a.aggregation: clip ", "below the grid step 2^-20"),
    *(
        (divided(clients=101, **keys), "partitions.iid8.clients: got 101", "at most 100 are allowed")
        for keys in PARTITIONS
    ),
    (
        divided("shards", 8, shards_per_client=13),
        "partitions.iid8.shards_per_client: 104 shards",
        "at most 12 a client are allowed",
    ),
    # Unknown kinds.
    (one_arm(privacy={"epsilon": 1.0}), "arms.a.privacy.kind: is missing", "allowed: none, example"),
    (
        one_arm(privacy={"kind": "exampel", "epsilon": 1.0}),
        "arms.a.privacy.kind: got 'exampel'",
        "did you mean 'example'? allowed: none, example",
    ),
    (
        one_arm(topology={"kind": "fl"}),
        "arms.a.topology.kind: got 'fl'",
        "allowed: centralized, independent, federated",
    ),
    (federated(kind="bgv"), "arms.a.aggregation.kind: got 'bgv'", "did you mean 'bfv'? allowed: plaintext, ckks, "),
    (
        small(partitions={"iid8": {"kind": "idd"}}),
        "partitions.iid8.kind: got 'idd'",
        "did you mean 'iid'? allowed: iid, shards, dirichlet",
    ),
    # Unknown names.
    (
        one_arm(topology={**FEDERATED, "partition": "iid9"}),
        "arms.a.topology.partition: unknown partition 'iid9'",
        "did you mean 'iid8'? allowed: iid8",
    ),
    (one_arm(model="tanh_cn"), "arms.a.model: unknown model 'tanh_cn'", "did you mean 'tanh_cnn'? allowed: "),
    (
        small(data={"dataset": "Fashion-MNIST"}),
        "data.dataset: unknown data set 'Fashion-MNIST'",
        "did you mean 'fashion_mnist'? allowed: ",
    ),
    (
        one_arm(dataset="cifar100"),
        "arms.a.dataset: unknown data set 'cifar100'",
        "did you mean 'cifar10'? allowed: adult, ",
    ),
    (with_experiment(arms=["fll"]), "experiments.e.arms: unknown arm 'fll'", "did you mean 'fl'? allowed: fl"),
    (
        with_experiment(compare=[{"published": "p", "arm": "dp"}]),
        "experiments.e.compare: unknown arm 'dp'",
        "allowed: fl",
    ),
    (with_experiment(tables=["sumary"]), "experiments.e.tables.0: got 'sumary'", "did you mean 'summary'? "),
    *(
        (small(arms={name: {}}), f"arms: got the name {name!r}", "allowed: at most 60 small letters, ")
        for name in ("Big", "a b", "../a", "", "a" * 61, 1)
    ),
    *(
        (
            small(data={"train": 1000, "define": {name: OWN_DATA}}),
            f"data.define: got the name {name!r}",
            "small letters, digits and '_', the first a letter",
        )
        for name in ("my-data", "my.data", "2nd")
    ),
    # Keys that exclude each other.
    (
        one_arm(transforms=SCATTERING["transforms"]),
        "arms.a.model: got 'tanh_cnn'",
        "allowed for these data: linear",
    ),
    (one_arm(model="linear"), "arms.a.model: got 'linear'", "allowed for these data: tanh_cnn, "),
    (
        one_arm(**SCATTERING, training={"shift": 1}),
        "arms.a: training.shift with transforms 'scattering'",
        "leave shift out",
    ),
    (
        one_arm(**SCATTERING, training={"deformation": {"rotation": 5.0}}),
        "arms.a: training.deformation with transforms 'scattering'",
        "leave deformation out",
    ),
    *(
        (
            one_arm(topology=topology, privacy={"kind": kind, "epsilon": epsilon, "noise_multiplier": noise}),
            "arms.a.privacy: give exactly one of epsilon and noise_multiplier",
            f"epsilon {epsilon}",
        )
        for kind, topology in (("example", {"kind": "centralized"}), ("client", {**FEDERATED, "weighting": "uniform"}))
        for epsilon, noise in ((2.0, 1.0), (None, None))
    ),
    (
        one_arm(privacy={**PRIVATE, "epsilon": 2.0, "budget": 1.0}),
        "arms.a.privacy: budget 1.0 with epsilon 2.0",
        "give noise_multiplier instead of epsilon",
    ),
    (
        one_arm(topology=INDEPENDENT, privacy={"kind": "example", "noise_multiplier": 2.0, "budget": 1.0}),
        "arms.a: privacy.budget with topology 'independent'",
    ),
    *(
        (
            one_arm(topology=topology, aggregation={"kind": "ckks"}),
            f"arms.a: aggregation 'ckks' with topology '{topology['kind']}'",
            "use topology federated, or leave aggregation out",
        )
        for topology in ({"kind": "centralized"}, INDEPENDENT)
    ),
    *(
        (
            federated(kind=kind, keys="shared", rounds_per_key=2),
            "arms.a.aggregation: rounds_per_key 2 with keys 'shared'",
            "allowed with keys public",
        )
        for kind in ("ckks", "bfv")
    ),
    # Claims without a test.
    (
        claiming(arms=["fl", "dpp"]),
        "experiments.e.claims.0.arms: unknown arm 'dpp'",
        "did you mean 'dp'? allowed: dp, ",
    ),
    (claiming(arms=["dp", "dp2"]), "experiments.e.claims.0.arms: 0 of 2 without privacy (none)", "exactly one"),
    (claiming(arms=["fl"]), "experiments.e.claims.0.arms: 1 of 1 without privacy (fl)", "exactly one"),
    (claiming(criterion="is_nice"), "experiments.e.claims.0.criterion: got 'is_nice'", "'keeps_accuracy'"),
    (with_experiment(tables=["claims"]), "experiments.e: tables: 'claims'", "at least one entry in claims"),
    *(
        (with_experiment(tables=[kind], **more), f"experiments.e: tables: {kind!r}", "in compare with an arm")
        for kind in ("published", "headline", "epsilon_interpretations")
        for more in ({}, {"published": ["private-ai/1/ml-dp"]}, {"compare": [{"published": "private-ai/1/ml-dp"}]})
    ),
]
"""A configuration, the key and the value in its error, and other parts of the error."""


@pytest.mark.parametrize("refused", REFUSED, ids=lambda refused: refused[1])
def test_invalid_value_is_refused_with_its_key_and_the_remedy(refused):
    check_refused(*refused)


@pytest.mark.parametrize(
    "content",
    [
        one_arm(training={"batch_size": "all"}),
        one_arm(privacy={"kind": "example", "noise_multiplier": 2.0, "budget": 1.0}),
        one_arm(topology=FEDERATED, privacy={"kind": "example", "noise_multiplier": 2.0, "budget": 1.0}),
        federated(kind="ckks", keys="public", rounds_per_key=2),
        federated(kind="bfv", keys="public", rounds_per_key=2),
        federated(kind="plaintext", clip=2.0**-20),
        *(divided(clients=100, **keys) for keys in PARTITIONS),
        divided("shards", 8, shards_per_client=12),
        claiming(),
    ],
)
def test_valid_value_is_accepted(content):
    parse_config(content, "my.yaml")


def test_exponent_without_a_point_in_a_file_is_refused(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text("arms: {a: {privacy: {kind: example, epsilon: 2.0, delta: 1e-5}}}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"my\.yaml: arms\.a\.privacy\.delta: got '1e-5'; .*write 1\.0e-5\)$"):
        load_config(path)


def test_gdp_needs_steps_on_all_examples():
    private = {**PRIVATE, "accountant": "gdp"}
    content = {**one_arm(privacy=private, training={"batch_size": 999}), "data": {"train": 1000}}
    check_refused(content, "arms.a.privacy.accountant: got 'gdp'", "training.batch_size 999", "allowed: prv, rdp, pld")
    content["arms"]["a"]["training"] = {"batch_size": 1000}
    parse_config(content, "my.yaml")


@pytest.mark.parametrize(("degree", "limit"), [(4096, 109), (8192, 218), (16384, 438), (32768, 881)])
def test_security_limits_are_those_of_the_homomorphic_encryption_standard(degree, limit):
    primes, rest = [60] * (limit // 60), limit % 60
    sizes = [*primes, rest] if rest >= 20 else [*primes[1:], 60 - 20, rest + 20]
    assert sum(sizes) == limit
    parse_config(federated(kind="ckks", poly_modulus_degree=degree, coeff_mod_bit_sizes=sizes), "my.yaml")
    smallest = sizes.index(min(sizes))
    sizes[smallest] += 1
    content = federated(kind="ckks", poly_modulus_degree=degree, coeff_mod_bit_sizes=sizes)
    check_refused(
        content, "arms.a.aggregation: coeff_mod_bit_sizes", f"has {limit + 1} bits: under 128", f"most {limit} are"
    )


def is_allowed(content: dict[str, Any]) -> bool:
    try:
        parse_config(content, "my.yaml")
    except UserError:
        return False
    return True


def largest_allowed(content_of: Callable[[int], dict[str, Any]]) -> int:
    """Return the largest allowed argument of ``content_of``, by bisection."""
    low, high = 1, 2**40
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if is_allowed(content_of(middle)) else (low, middle)
    return low


def test_largest_allowed_plaintext_sum_fits_a_64_bit_integer():
    clip, bits = 8.0, 40
    largest = largest_allowed(lambda clients: with_clients(clients, kind="plaintext", clip=clip, fractional_bits=bits))
    one = int(FixedPointCodec(clip, bits).encode([1e9])[0])
    assert largest * one < 2**63 <= (largest + 1) * one
    content = with_clients(largest + 1, kind="plaintext", clip=clip, fractional_bits=bits)
    key = f"arms.a.aggregation: the fixed-point grid overflows: {largest + 1} clients x clip 8.0"
    check_refused(content, key, "needs 0.1 bits more than a 64-bit integer has", "lower clip or fractional_bits")


def test_largest_allowed_plaintext_clip_fits_a_64_bit_integer():
    clip = largest_allowed(lambda clip: federated(kind="plaintext", fractional_bits=40, clip=clip))
    one = int(FixedPointCodec(float(clip), 40).encode([1e18])[0])
    assert 2**62 < 8 * one < 2**63
    content = federated(kind="plaintext", fractional_bits=40, clip=clip + 1)
    check_refused(content, "arms.a.aggregation: ", f"8 clients x clip {clip + 1}.0", "needs 0.1 bits more")


def test_largest_allowed_encrypted_sum_is_under_half_the_modulus():
    coarse = {"kind": "ckks", "fractional_bits": 10}
    clients = largest_allowed(lambda clients: with_clients(clients, **coarse))
    clip = largest_allowed(lambda clip: federated(clip=clip, **coarse))
    for largest in (clients * 8, 8 * clip):
        # Half of a 54-bit modulus is 2^53; the check may keep a bit in reserve, and no more.
        assert 2**51 < largest * 2**40 < 2**53
    key = f"arms.a.aggregation: the fixed-point grid overflows: {clients + 1} clients x clip 8.0 at scale_bits 40"
    check_refused(with_clients(clients + 1, **coarse), key, "needs 0.1 bits more than the 54 of coeff_mod_bit_sizes")
    check_refused(federated(clip=clip + 1, **coarse), "arms.a.aggregation: ", f"8 clients x clip {clip + 1}.0")


@pytest.mark.parametrize("keys", ["public", "shared"])
def test_bfv_sum_beyond_the_largest_ring_is_refused(keys):
    fine = {"kind": "bfv", "fractional_bits": 30, "keys": keys}
    clients = largest_allowed(lambda clients: with_clients(clients, **fine))
    # 60 bits hold the sum, its sign and the error of all encryptions; at most 3 of them are unused.
    error = 12 * math.sqrt(clients) * 3.2 * math.sqrt(1 if keys == "shared" else 4 * 4096 / 3)
    assert 2**57 < 2 * clients * 8 * 2**30 * 2 * (error + clients / 2) < 2**60
    key = f"arms.a.aggregation: the fixed-point grid overflows: {clients + 1} clients x clip 8.0"
    check_refused(with_clients(clients + 1, **fine), key, "1 bits more than the 60 of one prime")


def test_finest_allowed_grid_is_coarser_than_the_encryption_error():
    finest = largest_allowed(lambda bits: federated(kind="ckks", fractional_bits=bits))
    # Half a step against the deviation of an average slot: sqrt(clients * 2N/3/12 * N/2) units of 2^-scale_bits.
    deviation = math.sqrt(8 * (2 * 4096 / 3 / 12) * 4096 / 2) / 2**40
    assert 2.0 ** -(finest + 1) > 8 * deviation
    key = f"arms.a.aggregation: the grid 2^-{finest + 1} is too fine for scale_bits 40 and 8 clients"
    check_refused(federated(kind="ckks", fractional_bits=finest + 1), key, "must be at least 8")
    parse_config(federated(kind="ckks", fractional_bits=finest + 1, scale_bits=41), "my.yaml")


def test_each_problem_has_a_line_with_the_file():
    with pytest.raises(UserError) as caught:
        parse_config(small(seed=-1, device="gpu"), "my.yaml")
    assert [line.split(": got")[0] for line in str(caught.value).splitlines()] == ["my.yaml: seed", "my.yaml: device"]


@pytest.mark.parametrize(("delta", "warned"), [(0.008, True), (0.0081, True), (0.0079, False)])
def test_delta_of_one_over_n_or_more_has_a_warning(delta, warned):
    # 1,000 examples, 8 clients: 125 an owner.
    lines = parse_config(one_arm(topology=FEDERATED, privacy={**PRIVATE, "delta": delta}), "my.yaml").warnings()
    assert len(lines) == warned
    if warned:
        assert lines[0].startswith(f"arms.a.privacy.delta: {delta} is not below 1/n for n = 125 examples of an owner")


def test_delta_of_a_centralized_arm_is_compared_with_all_examples():
    private = {**PRIVATE, "delta": 0.002}
    assert "n = 1000 examples" in parse_config(one_arm(privacy=private), "my.yaml").warnings()[0]
    assert parse_config(one_arm(privacy={**PRIVATE, "delta": 0.0009}), "my.yaml").warnings() == []
