from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import MODES, WITHOUT_IPEX, host, surroundings
from hypothesis import given
from hypothesis import strategies as st

from autotune.driver import stacks
from autotune.shared.errors import SpaceError
from autotune.shared.records import Config, StackFacts
from autotune.space import baseline, compile_space, load_space, parse_overrides

QA = Path(__file__).parents[2] / "search_spaces" / "qa.yaml"
SMALL = Path(__file__).parents[1] / "spaces" / "small.yaml"


@pytest.fixture
def space_file(tmp_path):
    def write(text):
        path = tmp_path / "space.yaml"
        path.write_text("version: 1\ntask: qa\n" + text)
        return path

    return write


def compiled(path, *, where=None, **options):
    return compile_space(load_space(path), where or surroundings(), **options)


def choices(space, knob):
    return next(d.choices for d in space.dimensions if d.name == knob)


def test_the_spaces_that_travel_are_valid():
    for path in QA.parent.glob("*.yaml"):
        for objective in ("throughput", "latency"):
            for modes in (MODES, WITHOUT_IPEX):
                space = compiled(path, where=surroundings(objective, modes=modes))
                assert space.priors
                assert all(space.violation(prior) is None for prior in space.priors)


def test_priors_cover_every_mode():
    covered = {(p["mode"], p["precision"]) for p in compiled(QA).priors}
    assert covered >= {(mode, "bf16") for mode in MODES}


MACHINES = [(1, 1, 1), (2, 1, 1), (6, 1, 1), (12, 1, 1), (24, 1, 1), (56, 1, 1)]
MACHINES += [(56, 2, 2), (128, 2, 2), (56, 2, 4), (72, 3, 3)]


@pytest.mark.parametrize(("cores", "sockets", "nodes"), MACHINES)
def test_auto_threads_leave_no_core_idle_that_instances_could_use(cores, sockets, nodes):
    where = replace(surroundings(cores=cores), sockets=sockets, nodes=nodes)
    space = compiled(QA, where=where)
    threads, instances = choices(space, "threads"), choices(space, "instances")
    assert list(threads) == sorted(set(threads))
    assert {1, sockets, nodes, cores} <= set(instances)
    for count in instances:
        most = max(each for each in threads if each * count <= cores)
        assert cores - most * count == cores % count


@pytest.mark.parametrize(
    ("cores", "threads", "instances"),
    [
        (1, (1,), (1,)),
        (6, (1, 2, 3, 4, 6), (1, 2, 4, 6)),
        (24, (1, 2, 3, 4, 6, 8, 12, 16, 24), (1, 2, 4, 8, 16, 24)),
    ],
)
def test_auto_threads_and_instances(cores, threads, instances):
    space = compiled(QA, where=surroundings(cores=cores))
    assert (choices(space, "threads"), choices(space, "instances")) == (threads, instances)


def test_latency_runs_one_example_at_a_time():
    space = compiled(QA, where=surroundings("latency"))
    assert choices(space, "batch_size") == (1,)
    rng = random.Random(0)
    allowed = [c for c in (space.sample(rng) for _ in range(500)) if not space.violation(c)]
    assert {str(config["padding"]) for config in allowed} == {"max_length", "longest", "buckets"}


def test_conditional_knobs_are_there_only_when_they_act():
    space, rng = compiled(QA), random.Random(0)
    for config in (space.sample(rng) for _ in range(1000)):
        ipex = str(config["mode"]).startswith("ipex")
        bf16, fp32 = config["precision"] == "bf16", config["precision"] == "fp32"
        assert ("bucket_step" in config) == (config["padding"] == "buckets")
        assert ("batch_size" in config) != (config["padding"] == "token_budget")
        assert ("bf16_method" in config) == (bf16 and not ipex)
        assert ("auto_kernel_selection" in config) == (ipex and fp32)
        assert ("huge_pages" in config) == (config["allocator"] != "tcmalloc")


def test_modes_that_cannot_run_are_left_out_and_listed():
    space = compiled(QA, where=surroundings(modes=WITHOUT_IPEX))
    assert choices(space, "mode") == ("eager", "jit")
    assert space.unavailable["ipex fp32"] == "IPEX is not installed"


def test_every_config_is_built_once_and_allowed():
    space = compiled(SMALL)
    configs = list(space.configs())
    assert len(configs) == len(set(configs)) > 1000
    assert all(space.contains(config) for config in configs)


@given(st.randoms())
def test_sampled_configs_are_combinations_of_the_space(rng):
    space = compiled(QA)
    config = space.sample(rng)
    assert space.contains(config) == (space.violation(config) is None)


def test_neighbours_differ_in_one_knob_and_those_that_depend_on_it():
    space = compiled(QA)
    config = space.priors[0]
    neighbours = space.neighbours(config, frozenset({"batch_size", "padding"}))
    assert neighbours
    for other in neighbours:
        changed = {k for k in {*config, *other} if config.get(k) != other.get(k)}
        assert changed <= {"batch_size"} or changed <= {
            "padding",
            "bucket_step",
            "batch_size",
            "batch_tokens",
        }


def test_more_instances_have_fewer_threads_each():
    space = compiled(QA)
    config = space.priors[0]
    assert (config["instances"], config["threads"]) == (1, 4)
    near = space.neighbours(config, frozenset({"instances"}))
    assert [(c["instances"], c["threads"]) for c in near] == [(2, 2)]
    assert space.violation(near[0]) is None
    nearer = space.neighbours(near[0], frozenset({"instances"}))
    assert [(c["instances"], c["threads"]) for c in nearer] == [(1, 4), (4, 1)]


def test_a_prior_of_several_instances_shares_the_cores():
    wanted = {"mode": "eager", "precision": "fp32", "instances": 2}
    for cores, expected in ((4, (2, 2)), (6, (2, 3)), (24, (2, 12)), (1, (1, 1))):
        config = compiled(QA, where=surroundings(cores=cores)).fit(wanted)
        assert (config["instances"], config["threads"]) == expected
    one = compiled(QA, overrides=parse_overrides(["instances=1"])).fit(wanted)
    assert (one["instances"], one["threads"]) == (1, 4)
    told = compiled(QA).fit({**wanted, "threads": 1})
    assert (told["instances"], told["threads"]) == (2, 1)


def test_priors_are_for_cpus_with_vnni_or_without(space_file):
    path = space_file(
        "knobs: {mode: [eager, jit]}\n"
        "priors: [{vnni: false, mode: jit}, {vnni: true, mode: eager, threads: 1}, {mode: eager}]\n"
        "constraints: [{name: one, forbid: {vnni: false, mode: eager}}]\n"
    )
    where = replace(surroundings(), vnni=True)
    assert [prior["mode"] for prior in compiled(path, where=where).priors] == ["eager"]
    where = replace(surroundings(), vnni=False)
    assert [prior["mode"] for prior in compiled(path, where=where).priors] == ["jit"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("priors: [{vnni: 1, mode: jit}]", "priors: vnni must be one of true, false; got 1"),
        ("priors: [{objective: speed}]", "objective must be one of throughput, latency, server"),
        (
            "constraints: [{name: one, forbid: {objective: [latency, rate]}}]",
            "constraint 'one': objective must be one of .*; got 'rate'",
        ),
        (
            "constraints: [{name: one, forbid: {vnni: {min: 1}}}]",
            "constraint 'one': vnni must be one of true, false",
        ),
    ],
)
def test_objective_and_vnni_in_conditions_have_their_values(space_file, text, message):
    with pytest.raises(SpaceError, match=message):
        load_space(space_file(f"knobs: {{mode: [eager, jit]}}\n{text}\n"))


def test_set_narrows_and_drop_takes_the_default():
    overrides = parse_overrides(["precision=bf16", "batch_size=4,64"])
    space = compiled(QA, overrides=overrides, dropped=["attention"])
    assert choices(space, "precision") == ("bf16",)
    assert choices(space, "batch_size") == (4, 64)
    assert choices(space, "attention") == ("sdpa",)
    assert choices(space, "allocator") == ("default", "tcmalloc")
    assert all(prior["precision"] == "bf16" for prior in space.priors)


def test_a_prior_becomes_the_nearest_configuration_of_the_space():
    overrides = parse_overrides(["batch_size=1,2,4,64", "precision=fp32,bf16"])
    space = compiled(QA, overrides=overrides, where=surroundings(modes=with_int8(None, None)))
    wanted = {"mode": "openvino", "precision": "int8_static", "batch_size": 16}
    near = space.fit(wanted)
    assert (near["precision"], near["batch_size"]) == ("bf16", 4)
    assert space.fit({**wanted, "batch_size": 17})["batch_size"] == 64
    assert space.fit({"mode": "eager", "precision": "int8_static"})["precision"] == "fp32"


def test_ranges_step_or_double(space_file):
    path = space_file(
        "knobs: {mode: eager, batch_size: {range: {low: 2, high: 9, step: 3}},\n"
        "  bucket_step: {range: {low: 16, high: 130, log: true}}, padding: buckets}\n"
    )
    space = compiled(path)
    assert choices(space, "batch_size") == (2, 5, 8)
    assert choices(space, "bucket_step") == (16, 32, 64, 128)


def test_bounds_in_constraints(space_file):
    path = space_file(
        "knobs: {mode: eager, batch_size: [1, 8, 32]}\n"
        "constraints: [{name: small, forbid: {batch_size: {min: 8}}, because: memory}]\n"
    )
    space = compiled(path)
    assert [config["batch_size"] for config in space.configs()] == [1]
    forbidden = space.sample(random.Random(0))
    while forbidden["batch_size"] == 1:
        forbidden = space.sample(random.Random(len(str(forbidden))))
    assert space.violation(forbidden) == "small: memory"


def test_baseline_is_what_the_user_has_today():
    config = baseline(surroundings(cores=6))
    assert dict(config) == {
        "mode": "eager",
        "precision": "fp32",
        "attention": "sdpa",
        "stack": "default",
        "threads": 6,
        "instances": 1,
        "pinning": "none",
        "openmp": "default",
        "omp_wait": "default",
        "allocator": "default",
        "huge_pages": False,
        "interop_threads": 1,
        "flush_denormals": False,
        "linear": "torch",
        "batch_size": 8,
        "padding": "max_length",
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("knobs: [", "not valid YAML"),
        ("knobs: {}\nsurprise: 1", "surprise: unknown key; known keys: version"),
        ("knobs: {colour: [red]}", "unknown knob 'colour'; autotune spaces show"),
        ("knobs: {precision: [fp8]}", "precision must be one of fp32"),
        ("knobs: {batch_size: [big]}", "batch_size must be a whole number"),
        ("knobs: {batch_size: [true]}", "batch_size must be a whole number"),
        ("knobs: {batch_size: [0]}", "batch_size must be at least 1"),
        ("knobs: {batch_size: {range: {low: 9, high: 2}}}", "1 <= low <= high must hold"),
        ("knobs: {batch_size: {range: {low: 1, high: 1000000000}}}", "may have 1000 values"),
        ("knobs: {batch_size: {choices: [1], range: {low: 1, high: 2}}}", "either choices or"),
        ("knobs: {batch_size: []}", "1 to 1000 values"),
        ("knobs: {mode: {choices: [jit], when: {shape: 1}}}", "unknown knob 'shape'"),
        ("knobs: {threads: {choices: [1], when: {mode: jit}}}", "is decided after threads"),
        ("knobs: {mode: eager}\nconstraints: [{name: a}]", "constraints.0.forbid"),
        ("knobs: {mode: eager}\npriors: [{speed: 1}]", "priors: unknown knob"),
        ("knobs: {mode: eager, mode: jit}", "'mode' is given twice"),
        ("a: &a [x]\nknobs: *a", "aliases"),
        ("knobs: " + "[" * 3000, "not valid YAML|nested too deeply"),
        ("knobs: !!python/object/apply:os.system [ls]", "not valid YAML"),
    ],
)
def test_malformed_spaces_are_refused_with_the_rule(space_file, text, message):
    with pytest.raises(SpaceError, match=message):
        compiled(space_file(text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("forbid: {mode: jitt}", "mode must be one of .*; got 'jitt', did you mean jit\\?"),
        ("forbid: {precision: FP32}", "got 'FP32', did you mean fp32\\?"),
        ("forbid: {threads: '2'}", "threads must be a whole number, got '2'"),
        ("forbid: {threads: yes}", "threads must be a whole number, got true \\(YAML reads yes"),
        ("forbid: {omp_wait: off}", "omp_wait must be one of .*; got false \\(YAML reads"),
        ("forbid: {threads: 0}", "threads must be at least 1, got 0"),
        ("forbid: {mode: []}", "mode has an empty list, so the condition never holds"),
        ("forbid: {threads: {min: 3, max: 1}}", "max 1 is below min 3; no value is within"),
        ("forbid: {bucket_step: {max: 7}}", "max 7 is below 8; no value is within"),
        ("forbid: {mode: {min: 3}}", "mode must be one of .*; min and max are for whole numbers"),
        ("forbid: {threads: {}}", "give min, max or both"),
        ("forbid: {threads: {min: 1.5}}", "min: must be a whole number, got 1.5"),
        ("forbid: {threads: {low: 1}}", "unknown key; known keys: min, max"),
        ("forbid: {tread: 1}", "unknown knob 'tread', did you mean threads\\?"),
        ("forbid: {objective: latencies}", "got 'latencies', did you mean latency\\?"),
    ],
)
@pytest.mark.parametrize("place", ["constraint", "when"])
def test_a_condition_that_can_never_hold_is_refused(space_file, place, text, message):
    if place == "constraint":
        content = f"knobs: {{mode: [eager, jit]}}\nconstraints: [{{name: one, {text}}}]\n"
    else:
        content = f"knobs: {{batch_size: {{choices: [1], {text.replace('forbid', 'when', 1)}}}}}\n"
    with pytest.raises(SpaceError, match=message):
        load_space(space_file(content))


@pytest.mark.parametrize(
    ("knob", "message"),
    [
        ("batch_size: 8.0", "batch_size must be a whole number, got 8.0"),
        ("batch_size: 010", "line 4: 010 is read as 8; write 8 if that is what you mean"),
        ("batch_size: [4, 1:30]", "line 4: 1:30 is read as 90"),
        ("batch_size: 0x10", "line 4: 0x10 is read as 16"),
        ("batch_size: 1_6", "line 4: 1_6 is read as 16"),
        ("batch_size: 08", "batch_size must be a whole number, got '08'"),
        ("batch_size: 1e1", "batch_size must be a whole number, got '1e1'"),
        ("batch_size: 2020-01-01", "got the date 2020-01-01"),
        ("batch_size: yes", "batch_size must be a whole number, got true \\(YAML reads yes"),
        ("batch_size: 2147483648", "batch_size must be at most 2147483647"),
        ("bucket_step: {range: {low: 1, high: 4}}", "bucket_step must be at least 8, got 1"),
        ("mode: {range: {low: 1, high: 4}}", "mode must be one of"),
        ("bucket_step: auto", "bucket_step has no auto choices; list them"),
        ("mode: [on, eager]", "got true \\(YAML reads yes, no, on and off as that"),
        ("mode:", "knobs.mode: no value is given"),
        ("pinning: null", "knobs.pinning: no value is given"),
        ("huge_pages: [1, 0]", "huge_pages must be true or false, got 1"),
        ("1: 2", "knobs: a name must be text, got 1"),
    ],
)
def test_a_value_is_refused_in_the_words_of_what_was_read(space_file, knob, message):
    with pytest.raises(SpaceError, match=message):
        load_space(space_file(f"knobs:\n  {knob}\n"))


def test_values_that_yaml_reads_as_meant_are_kept(space_file):
    path = space_file("knobs: {huge_pages: no, flush_denormals: [yes, off], pinning: none}\n")
    space = compiled(path)
    assert choices(space, "huge_pages") == (False,)
    assert choices(space, "flush_denormals") == (True, False)
    assert choices(space, "pinning") == ("none",)


@pytest.mark.parametrize("content", ["", "- a\n", "7\n"])
def test_a_file_that_is_no_mapping(tmp_path, content):
    (tmp_path / "space.yaml").write_text(content)
    with pytest.raises(SpaceError, match="expected version, task, description, knobs"):
        load_space(tmp_path / "space.yaml")


def test_other_versions_and_tasks_of_the_format_are_refused(tmp_path):
    path = tmp_path / "space.yaml"
    path.write_text("version: 2\ntask: qa\nknobs: {}\n")
    with pytest.raises(SpaceError, match="version"):
        load_space(path)


def test_an_unsatisfiable_space_names_the_most_frequent_reason(space_file):
    path = space_file(
        "knobs: {mode: eager}\n"
        "constraints: [{name: never, forbid: {mode: eager}, because: a test}]\n"
    )
    with pytest.raises(SpaceError, match="the most frequent reason is: never: a test"):
        compiled(path)


def test_a_huge_unsatisfiable_space_is_refused_too(space_file):
    path = space_file(
        "knobs:\n  mode: eager\n  padding: buckets\n"
        "  batch_size: {range: {low: 1, high: 1000}}\n"
        "  bucket_step: {range: {low: 8, high: 1007}}\n"
        "constraints: [{name: never, forbid: {mode: eager}}]\n"
    )
    with pytest.raises(SpaceError, match="never"):
        compiled(path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["threads=99"], "at most the 4 cores"),
        (["instances=5"], "at most the 4 cores"),
        (["threads=4", "instances=2"], "instances x threads must fit 4 cores"),
        (["allocator=jemalloc"], "allocator=jemalloc is not available here: no jemalloc"),
        (["stack=other"], "stack must be one of default, got other"),
        (["mode=warp"], "mode must be one of"),
        (["batch_size=x"], "a whole number"),
        (["nonsense=1"], "unknown knob"),
        (["mode=jitt"], "got 'jitt', did you mean jit\\?"),
        (["thread=1"], "unknown knob 'thread', did you mean threads\\?"),
        (["batch_size=010"], "batch_size must be a whole number, got '010'"),
        (["precision"], "--set takes KNOB=VALUE"),
        (["precision="], "--set takes KNOB=VALUE"),
        (["precision=fp32", "precision=bf16"], "given twice"),
    ],
)
def test_overrides_that_cannot_be_honoured_are_errors(settings, message):
    with pytest.raises(SpaceError, match=message):
        compiled(QA, overrides=parse_overrides(settings))


def test_a_mode_that_was_asked_for_must_run():
    with pytest.raises(SpaceError, match="mode ipex cannot run here: IPEX is not installed"):
        compiled(
            QA,
            where=surroundings(modes=WITHOUT_IPEX),
            overrides=parse_overrides(["mode=ipex,jit"]),
        )


BF16 = "bf16 needs AVX512-BF16"


def with_int8(openvino_bf16, ipex_jit_bf16):
    int8 = {"fp32": None, "int8_static": None}
    return {
        "eager": {"fp32": None},
        "openvino": {**int8, "bf16": openvino_bf16},
        "ipex_jit": {**int8, "bf16": ipex_jit_bf16},
    }


def here_with_int8(openvino_bf16, ipex_jit_bf16):
    modes = with_int8(openvino_bf16, ipex_jit_bf16)
    facts = StackFacts(python="p", python_version="3", versions={}, ipex=None, modes=modes)
    where = stacks.surroundings(
        host(), {"default": facts}, attentions=("sdpa", "eager"), objective="throughput"
    )
    return replace(where, vnni=True)


def test_int8_rest_leaves_out_a_precision_that_this_host_lacks():
    space = compiled(QA, where=here_with_int8(BF16, BF16))
    assert choices(space, "int8_rest") == ("fp32",)
    assert space.unavailable["int8_rest=bf16"] == BF16
    assert {"mode": "openvino", "precision": "int8_static", "int8_rest": "fp32"}.items() <= (
        space.priors[0].items()
    )
    with pytest.raises(SpaceError, match="int8_rest=bf16 is not available here: bf16 needs"):
        compiled(
            QA,
            where=here_with_int8(BF16, BF16),
            overrides=parse_overrides(["int8_rest=bf16"]),
        )


def test_int8_rest_takes_a_precision_that_its_mode_offers():
    space = compiled(QA, where=here_with_int8(BF16, None))
    assert choices(space, "int8_rest") == ("fp32", "bf16")
    assert space.priors[0]["int8_rest"] == "fp32"
    assert {c["int8_rest"] for c in space.priors if c["precision"] == "int8_static"} == {"fp32"}
    wanted = {"precision": "int8_static", "int8_rest": "bf16"}
    assert space.fit({**wanted, "mode": "ipex_jit"})["int8_rest"] == "bf16"
    refused = Config.of({**space.priors[0], "int8_rest": "bf16"})
    assert space.violation(refused) == f"int8_rest=bf16: {BF16}"


def test_dropping_an_unknown_knob_or_one_that_is_set_is_an_error():
    with pytest.raises(SpaceError, match="unknown knob"):
        compiled(QA, dropped=["colour"])
    with pytest.raises(SpaceError, match="contradict"):
        compiled(QA, overrides=parse_overrides(["mode=jit"]), dropped=["mode"])
