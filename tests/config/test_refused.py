import math

import pytest

from ppml.aggregation.fixed_point import FixedPointCodec
from ppml.config.load import load_config, parse_config
from ppml.errors import UserError

from .small import FEDERATED, PRIVATE, one_arm, refusal, small


def federated(**aggregation):
    return one_arm(topology=FEDERATED, aggregation=aggregation)


def with_clients(clients, **aggregation):
    content = federated(**aggregation)
    return {**content, "data": {"train": clients}, "partitions": {"iid8": {"kind": "iid", "clients": clients}}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (small(sed=1), "unknown key 'sed'; did you mean 'seed'? allowed: arms, "),
        (
            one_arm(training={"lerning_rate": 0.1}),
            "arms.a.training: unknown key 'lerning_rate'; did you mean 'learning_rate'? allowed: batch_size, ",
        ),
        (
            one_arm(privacy={**PRIVATE, "epsilonn": 1.0}),
            "arms.a.privacy: unknown key 'epsilonn'; did you mean 'epsilon'? allowed: accountant, ",
        ),
        (one_arm(privacy={"kind": "none", "epsilon": 1.0}), "arms.a.privacy: unknown key 'epsilon'; allowed: kind"),
        (
            small(experiments={"e": {"title": "T", "arms": ["fl"], "figure": []}}),
            "experiments.e: unknown key 'figure'; did you mean 'figures'? allowed: arms, claims, compare, ",
        ),
        (small(folders={"artefacts": "x"}), "folders: unknown key 'artefacts'; did you mean 'artifacts'? allowed: "),
    ],
)
def test_unknown_key_is_refused_with_the_nearest_and_all_allowed(content, message):
    assert refusal(content).startswith(message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            small(data={"train": "1000"}),
            "data.train: got '1000'; input should be a valid integer (YAML reads it as text: write 1000 without "
            "quotes)",
        ),
        (small(data={"train": 10.5}), "data.train: got 10.5; input should be a valid integer"),
        (small(data={"train": True}), "data.train: got True; input should be a valid integer"),
        (small(data={"download": "no"}), "data.download: got 'no'; input should be a valid boolean"),
        (small(data=[1]), "data: got [1]; expected keys and values"),
        (small(data={"mirrors": "/data"}), "data.mirrors: got '/data'; expected a list"),
        (small(seeds=3), "seeds: got 3; expected a list"),
        (small(seeds=["a"]), "seeds.0: got 'a'; input should be a valid integer"),
        (small(arms=None), "arms: got None; expected keys and values"),
        (
            one_arm(label=3),
            "arms.a.label: got 3; input should be a valid string (write text that is a number in quotes)",
        ),
        (one_arm(privacy=3), "arms.a.privacy: got 3; expected keys and values"),
        (
            one_arm(training={"learning_rate": "fast"}),
            "arms.a.training.learning_rate: got 'fast'; input should be a valid number",
        ),
        ([1], "expected keys and values at the top level, got list"),
        (None, "expected keys and values at the top level, got NoneType"),
    ],
)
def test_wrong_type_is_refused_with_key_and_value(content, message):
    assert refusal(content) == message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            one_arm(privacy={"kind": "example", "epsilon": 0.0}),
            "arms.a.privacy.epsilon: got 0.0; input should be greater than 0",
        ),
        (
            one_arm(privacy={"kind": "example", "epsilon": -1}),
            "arms.a.privacy.epsilon: got -1; input should be greater than 0",
        ),
        (
            one_arm(privacy={"kind": "example", "epsilon": math.inf}),
            "arms.a.privacy.epsilon: got inf; input should be a finite number",
        ),
        (
            one_arm(privacy={**PRIVATE, "delta": 1.0}),
            "arms.a.privacy.delta: got 1.0; input should be less than or equal to 0.5",
        ),
        (
            one_arm(privacy={**PRIVATE, "accountant": "moments"}),
            "arms.a.privacy.accountant: got 'moments'; input should be 'tightest', 'prv', 'rdp', 'pld' or 'gdp'",
        ),
        (one_arm(training={"epochs": 0}), "arms.a.training.epochs: got 0; input should be greater than or equal to 1"),
        (
            one_arm(training={"learning_rate": math.nan}),
            "arms.a.training.learning_rate: got nan; input should be a finite number",
        ),
        (one_arm(training={"momentum": 1.0}), "arms.a.training.momentum: got 1.0; input should be less than 1"),
        (small(seed=-1), "seed: got -1; input should be greater than or equal to 0"),
        (small(device="gpu"), "device: got 'gpu'; did you mean 'cuda'? input should be 'cpu' or 'cuda'"),
        (small(seeds=[-1]), "seeds.0: got -1; input should be greater than or equal to 0"),
        (one_arm(seeds=[2**63]), f"arms.a.seeds.0: got {2**63}; input should be less than or equal to {2**63 - 1}"),
        (one_arm(topology={"kind": "federated", "partition": "iid8"}), "arms.a.topology.rounds: is missing"),
        (
            federated(kind="ckks", poly_modulus_degree=2048),
            "arms.a.aggregation.poly_modulus_degree: got 2048; input should be 4096, 8192, 16384 or 32768",
        ),
    ],
)
def test_value_out_of_range_is_refused_with_what_is_allowed(content, message):
    assert refusal(content) == message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (one_arm(privacy={"epsilon": 1.0}), "arms.a.privacy.kind: is missing; allowed: none, example"),
        (
            one_arm(privacy={"kind": "exampel", "epsilon": 1.0}),
            "arms.a.privacy.kind: got 'exampel'; did you mean 'example'? allowed: none, example",
        ),
        (one_arm(topology={"kind": "fl"}), "arms.a.topology.kind: got 'fl'; allowed: centralized, local, federated"),
        (federated(kind="bgv"), "arms.a.aggregation.kind: got 'bgv'; did you mean 'bfv'? allowed: plaintext, ckks, "),
        (
            small(partitions={"iid8": {"kind": "idd"}}),
            "partitions.iid8.kind: got 'idd'; did you mean 'iid'? allowed: iid, shards, dirichlet",
        ),
    ],
)
def test_unknown_kind_is_refused_with_those_offered(content, message):
    assert refusal(content).startswith(message)


SCATTERING = {"kind": "scattering"}


@pytest.mark.parametrize(
    ("arm", "message"),
    [
        (
            {"features": SCATTERING},
            "features 'scattering' with model 'tanh_cnn': it is trained on images; allowed: linear; or leave features "
            "out",
        ),
        (
            {"model": "linear"},
            "model 'linear' with features 'none': it is trained on features, not on images; use features scattering, "
            "or another model",
        ),
        (
            {"features": SCATTERING, "model": "linear", "training": {"shift": 1}},
            "training.shift with features 'scattering': features cannot be moved; use features.copies, or leave shift "
            "out",
        ),
        (
            {"features": SCATTERING, "model": "linear", "training": {"deformation": {"rotation": 5.0}}},
            "training.deformation with features 'scattering': features cannot be moved; use features.copies, or leave "
            "deformation out",
        ),
    ],
)
def test_features_are_for_models_on_features_alone(arm, message):
    assert refusal(one_arm(**arm)) == f"arms.a: {message}"


@pytest.mark.parametrize("value", [0, -1, 2.5, True, "every", None])
def test_a_batch_is_a_number_of_records_or_all(value):
    message = refusal(one_arm(training={"batch_size": value}))
    assert message == f"arms.a.training.batch_size: got {value!r}; expected an integer of at least 1, or 'all'"
    assert parse_config(one_arm(training={"batch_size": "all"}), "my.yaml").arms["a"].training.batch_size == "all"


@pytest.mark.parametrize("key", ["delta", "epsilon", "max_grad_norm"])
def test_exponent_without_a_point_is_text_and_the_message_says_how_to_write_it(key):
    message = refusal(one_arm(privacy={**PRIVATE, key: "1e-5"}))
    assert message == (
        f"arms.a.privacy.{key}: got '1e-5'; input should be a valid number "
        "(YAML reads a number like 1e-5 as text: write 1.0e-5)"
    )


def test_exponent_without_a_point_in_a_file_is_refused(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text("arms: {a: {privacy: {kind: example, epsilon: 2.0, delta: 1e-5}}}\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"my\.yaml: arms\.a\.privacy\.delta: got '1e-5'; .*write 1\.0e-5\)$"):
        load_config(path)


@pytest.mark.parametrize(("epsilon", "noise"), [(2.0, 1.0), (None, None)])
def test_epsilon_and_noise_multiplier_exclude_each_other_and_one_is_needed(epsilon, noise):
    message = refusal(one_arm(privacy={"kind": "example", "epsilon": epsilon, "noise_multiplier": noise}))
    assert message == (
        f"arms.a.privacy: give exactly one of epsilon and noise_multiplier, got epsilon {epsilon} and "
        f"noise_multiplier {noise}"
    )


def test_gdp_is_refused_unless_every_step_is_on_all_records():
    private = {**PRIVATE, "accountant": "gdp"}
    content = {**one_arm(privacy=private, training={"batch_size": 999}), "data": {"train": 1000}}
    assert refusal(content) == (
        "arms.a.privacy.accountant: got 'gdp' with training.batch_size 999, a sample of the 1000 records of data.train"
        ": gdp is exact only where every step is on all records; allowed: prv, rdp, pld, or 'all' for "
        "training.batch_size"
    )
    content["arms"]["a"]["training"] = {"batch_size": 1000}
    parse_config(content, "my.yaml")


def test_a_budget_beside_a_target_is_refused():
    message = refusal(one_arm(privacy={**PRIVATE, "epsilon": 2.0, "budget": 1.0}))
    assert message.startswith("arms.a.privacy: budget 1.0 beside epsilon 2.0: ")
    assert "give noise_multiplier instead of epsilon" in message


def test_a_budget_is_refused_where_a_mean_over_clients_would_have_no_meaning():
    privacy = {"kind": "example", "noise_multiplier": 2.0, "budget": 1.0}
    message = refusal(one_arm(topology={"kind": "local", "partition": "iid8"}, privacy=privacy))
    assert message.startswith("arms.a: privacy.budget with topology 'local': ")
    for allowed in ({}, {"topology": FEDERATED}):
        parse_config(one_arm(privacy=privacy, **allowed), "my.yaml")


@pytest.mark.parametrize("kind", ["iid", "shards", "dirichlet"])
@pytest.mark.parametrize("topology", ["federated", "local"])
def test_more_clients_than_samples_are_refused(kind, topology):
    arm = {"topology": FEDERATED if topology == "federated" else {"kind": "local", "partition": "iid8"}}
    alpha = {"dirichlet": {"alpha": 1.0}, "shards": {"shards_per_client": 1}}.get(kind, {})
    content = {**small(arms={"a": arm}), "data": {"train": 100}}
    content["partitions"] = {"iid8": {"kind": kind, "clients": 101, **alpha}}
    message = "partitions.iid8.clients: got 101, more than the 100 samples of data.train; at most 100 are allowed"
    assert refusal(content) == message
    content["partitions"] = {"iid8": {"kind": kind, "clients": 100, **alpha}}
    assert parse_config(content, "my.yaml").partitions["iid8"].clients == 100


def test_more_shards_than_samples_are_refused():
    content = {**small(arms={"a": {"topology": FEDERATED}}), "data": {"train": 100}}
    content["partitions"] = {"iid8": {"kind": "shards", "clients": 8, "shards_per_client": 13}}
    assert refusal(content) == (
        "partitions.iid8.shards_per_client: 104 shards in all, more than the 100 samples of data.train; at most 12 a "
        "client are allowed"
    )
    content["partitions"]["iid8"]["shards_per_client"] = 12
    parse_config(content, "my.yaml")


def test_a_clip_below_the_grid_step_is_refused():
    message = refusal(federated(kind="plaintext", clip=2.0**-21))
    assert "is below the grid step 2^-20: every update would be 0" in message
    parse_config(federated(kind="plaintext", clip=2.0**-20), "my.yaml")


@pytest.mark.parametrize("kind", ["ckks", "bfv"])
def test_new_keys_for_clients_that_share_one_are_refused(kind):
    message = refusal(federated(kind=kind, keys="shared", rounds_a_key=2))
    assert message == (
        "arms.a.aggregation: rounds_a_key 2 with keys 'shared': all clients would have to come to a new key at once; "
        "allowed with keys public; or leave rounds_a_key out"
    )
    parse_config(federated(kind=kind, keys="public", rounds_a_key=2), "my.yaml")


def test_ckks_under_128_bits_of_security_is_refused():
    message = refusal(federated(kind="ckks", coeff_mod_bit_sizes=[55, 55]))
    assert message == (
        "arms.a.aggregation: coeff_mod_bit_sizes [55, 55] has 110 bits: under 128 bits of security at "
        "poly_modulus_degree 4096, where at most 109 are allowed; use fewer bits or a larger degree"
    )
    parse_config(federated(kind="ckks", coeff_mod_bit_sizes=[54, 55]), "my.yaml")


@pytest.mark.parametrize(("degree", "limit"), [(4096, 109), (8192, 218), (16384, 438), (32768, 881)])
def test_security_limits_are_those_of_the_homomorphic_encryption_standard(degree, limit):
    primes, rest = [60] * (limit // 60), limit % 60
    sizes = [*primes, rest] if rest >= 20 else [*primes[1:], 60 - 20, rest + 20]
    assert sum(sizes) == limit
    parse_config(federated(kind="ckks", poly_modulus_degree=degree, coeff_mod_bit_sizes=sizes), "my.yaml")
    smallest = sizes.index(min(sizes))
    sizes[smallest] += 1
    message = refusal(federated(kind="ckks", poly_modulus_degree=degree, coeff_mod_bit_sizes=sizes))
    assert f"has {limit + 1} bits" in message and f"at most {limit} are allowed" in message


@pytest.mark.parametrize("sizes", [[54], [29, 60], [61, 40], []])
def test_ckks_primes_out_of_range_are_refused(sizes):
    message = refusal(federated(kind="ckks", coeff_mod_bit_sizes=sizes))
    assert message == f"arms.a.aggregation: coeff_mod_bit_sizes {sizes}: at least two primes of 30 to 60 bits each"


def allowed(content):
    try:
        parse_config(content, "my.yaml")
    except UserError:
        return False
    return True


def largest_allowed(content_of):
    """Return the largest integer that ``content_of`` is allowed for, by bisection."""
    low, high = 1, 2**40
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if allowed(content_of(middle)) else (low, middle)
    return low


def test_largest_plaintext_sum_that_passes_fits_a_64_bit_integer_and_the_next_is_refused():
    grid = {"kind": "plaintext", "clip": 8.0, "fractional_bits": 40}
    largest = largest_allowed(lambda clients: with_clients(clients, **grid))
    one = int(FixedPointCodec(grid["clip"], grid["fractional_bits"]).encode([1e9])[0])
    assert largest * one < 2**63 <= (largest + 1) * one
    assert refusal(with_clients(largest + 1, **grid)) == (
        f"arms.a.aggregation: the fixed-point grid overflows: {largest + 1} clients x clip 8.0 at fractional_bits 40 "
        "needs 0.1 bits more than a 64-bit integer has; lower clip or fractional_bits"
    )


def test_largest_plaintext_clip_that_passes_fits_a_64_bit_integer_and_the_next_is_refused():
    clip = largest_allowed(lambda clip: federated(kind="plaintext", fractional_bits=40, clip=clip))
    one = int(FixedPointCodec(float(clip), 40).encode([1e18])[0])
    assert 2**62 < 8 * one < 2**63
    message = refusal(federated(kind="plaintext", fractional_bits=40, clip=clip + 1))
    assert f"8 clients x clip {clip + 1}.0 at fractional_bits 40 needs 0.1 bits more" in message


def test_largest_encrypted_sum_that_passes_stays_under_half_the_modulus_and_the_next_is_refused():
    coarse = {"kind": "ckks", "fractional_bits": 10}
    clients = largest_allowed(lambda clients: with_clients(clients, **coarse))
    clip = largest_allowed(lambda clip: federated(clip=clip, **coarse))
    for largest in (clients * 8, 8 * clip):
        # Half of a 54-bit modulus is 2^53; the check may keep a bit in reserve, and no more.
        assert 2**51 < largest * 2**40 < 2**53
    assert refusal(with_clients(clients + 1, **coarse)) == (
        f"arms.a.aggregation: the fixed-point grid overflows: {clients + 1} clients x clip 8.0 at scale_bits 40 needs "
        "0.1 bits more than the 54 of coeff_mod_bit_sizes without its last prime, or than float64 can encode (62); "
        "lower clip or scale_bits"
    )
    assert f"8 clients x clip {clip + 1}.0 at scale_bits 40" in refusal(federated(clip=clip + 1, **coarse))


@pytest.mark.parametrize("keys", ["public", "shared"])
def test_a_bfv_sum_beyond_the_largest_ring_is_refused(keys):
    fine = {"kind": "bfv", "fractional_bits": 30, "keys": keys}
    clients = largest_allowed(lambda clients: with_clients(clients, **fine))
    # The sum, its sign and the error of all encryptions are in 60 bits, of which 3 at most are not used.
    error = 12 * math.sqrt(clients) * 3.2 * math.sqrt(1 if keys == "shared" else 4 * 4096 / 3)
    assert 2**57 < 2 * clients * 8 * 2**30 * 2 * (error + clients / 2) < 2**60
    assert refusal(with_clients(clients + 1, **fine)) == (
        f"arms.a.aggregation: the fixed-point grid overflows: {clients + 1} clients x clip 8.0 at fractional_bits 30 "
        "needs 1 bits more than the 60 of one prime; lower clip or fractional_bits"
    )


def test_finest_grid_that_passes_is_coarser_than_the_encryption_error_and_the_next_is_refused():
    finest = largest_allowed(lambda bits: federated(kind="ckks", fractional_bits=bits))
    # Half a step against the deviation of an average slot: sqrt(clients * 2N/3/12 * N/2) units of 2^-scale_bits.
    deviation = math.sqrt(8 * (2 * 4096 / 3 / 12) * 4096 / 2) / 2**40
    assert 2.0 ** -(finest + 1) > 8 * deviation
    message = refusal(federated(kind="ckks", fractional_bits=finest + 1))
    assert message.startswith(
        f"arms.a.aggregation: the grid 2^-{finest + 1} is too fine for scale_bits 40 and 8 clients: "
    )
    assert message.endswith("and must be at least 8; raise scale_bits or lower fractional_bits")
    parse_config(federated(kind="ckks", fractional_bits=finest + 1, scale_bits=41), "my.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            one_arm(topology={**FEDERATED, "partition": "iid9"}),
            "arms.a.topology.partition: unknown partition 'iid9'; did you mean 'iid8'? allowed: iid8",
        ),
        (one_arm(model="tanh_cn"), "arms.a.model: unknown model 'tanh_cn'; did you mean 'tanh_cnn'? allowed: "),
        (
            small(data={"dataset": "Fashion-MNIST"}),
            "data.dataset: unknown data set 'Fashion-MNIST'; did you mean 'fashion_mnist'? allowed: mnist, ",
        ),
        (one_arm(dataset="cifar10"), "arms.a.dataset: unknown data set 'cifar10'; allowed: mnist, fashion_mnist, "),
        (
            small(experiments={"e": {"title": "T", "arms": ["fll"]}}),
            "experiments.e.arms: unknown arm 'fll'; did you mean 'fl'? allowed: fl",
        ),
        (
            small(experiments={"e": {"title": "T", "arms": ["fl"], "compare": [{"published": "p", "arm": "dp"}]}}),
            "experiments.e.compare: unknown arm 'dp'; allowed: fl",
        ),
        (
            small(experiments={"e": {"title": "T", "arms": ["fl"], "tables": ["sumary"]}}),
            "experiments.e.tables.0: got 'sumary'; did you mean 'summary'? input should be 'summary', "
            "'published', 'readings', 'claims', "
            "'audit', 'clients', 'threats' or 'inference'",
        ),
    ],
)
def test_unknown_name_is_refused_with_those_known(content, message):
    assert refusal(content).startswith(message)


@pytest.mark.parametrize("topology", [{"kind": "centralized"}, {"kind": "local", "partition": "iid8"}])
def test_encryption_without_aggregation_is_refused(topology):
    message = refusal(one_arm(topology=topology, aggregation={"kind": "ckks"}))
    assert message == (
        f"arms.a: aggregation 'ckks' with topology '{topology['kind']}': nothing is aggregated there; use topology "
        "federated, or leave aggregation out"
    )


def test_seed_named_twice_is_refused():
    assert refusal(small(seeds=[0, 1, 0])) == "seeds: [0, 1, 0] names a seed twice; each may occur once"
    message = "arms.a.seeds: [3, 3] names a seed twice; each may occur once"
    assert refusal(one_arm(seeds=[3, 3])) == message


@pytest.mark.parametrize("name", ["Big", "a b", "../a", "", "a" * 61, 1])
def test_name_that_is_no_file_name_is_refused(name):
    assert refusal(small(arms={name: {}})).startswith(
        f"arms: got the name {name!r}; allowed: at most 60 small letters, "
    )


def test_each_of_several_problems_gets_a_line_with_the_file():
    with pytest.raises(UserError) as caught:
        parse_config(small(seed=-1, device="gpu"), "my.yaml")
    assert [line.split(": got")[0] for line in str(caught.value).splitlines()] == ["my.yaml: seed", "my.yaml: device"]


def test_message_names_an_arm_that_is_called_like_a_kind():
    assert refusal(small(arms={"local": {"training": {"epochs": 0}}})).startswith("arms.local.training.epochs: got 0")


@pytest.mark.parametrize(("delta", "warned"), [(0.008, True), (0.0081, True), (0.0079, False)])
def test_delta_of_one_over_n_or_more_is_warned_of(delta, warned):
    # 1,000 records, 8 clients: 125 an owner.
    lines = parse_config(one_arm(topology=FEDERATED, privacy={**PRIVATE, "delta": delta}), "my.yaml").warnings()
    assert len(lines) == warned
    if warned:
        assert lines[0].startswith(f"arms.a.privacy.delta: {delta} is not below 1/n for n = 125 records an owner")


def test_delta_is_compared_with_all_records_when_one_owner_holds_them():
    private = {**PRIVATE, "delta": 0.002}
    assert "n = 1000 records" in parse_config(one_arm(privacy=private), "my.yaml").warnings()[0]
    assert parse_config(one_arm(privacy={**PRIVATE, "delta": 0.0009}), "my.yaml").warnings() == []


CLAIM = {"says": "They say so.", "reading": "rises_with_epsilon", "arms": ["fl", "dp"]}


def claiming(**keys):
    arms = {"fl": {"topology": FEDERATED}, "dp": {"privacy": PRIVATE}, "dp2": {"privacy": PRIVATE}}
    experiment = {"title": "T", "arms": ["fl"], "tables": ["claims"], "claims": [{**CLAIM, **keys}]}
    return small(arms=arms, experiments={"e": experiment})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            claiming(arms=["fl", "dpp"]),
            "experiments.e.claims.0.arms: unknown arm 'dpp'; did you mean 'dp'? allowed: dp, ",
        ),
        (claiming(arms=["dp", "dp2"]), "experiments.e.claims.0.arms: 0 without privacy (none) of 2; exactly "),
        (claiming(arms=["fl"]), "experiments.e.claims.0.arms: 1 without privacy (fl) of 1; exactly "),
        (claiming(reading="is_nice"), "experiments.e.claims.0.reading: got 'is_nice'; "),
        (
            small(experiments={"e": {"title": "T", "arms": ["fl"], "tables": ["claims"]}}),
            "experiments.e: tables: 'claims' needs at least one entry in claims",
        ),
    ],
)
def test_a_claim_that_cannot_be_tested_is_refused(content, message):
    assert refusal(content).startswith(message)


def test_a_claim_about_a_private_arm_and_one_without_is_accepted():
    assert parse_config(claiming(), "my.yaml").experiments["e"].claims[0].arms == ("fl", "dp")
