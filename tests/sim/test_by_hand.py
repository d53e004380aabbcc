"""Small cases, worked out by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sim.fleet import Fleet
from sim.models import Kind
from sim.policies import AlwaysOn, KeepAlive, Knative, Ours

from forebay_operator.decide.cut import best_cut, predict
from forebay_operator.decide.seen import Link, WorkerSeen

Make = Callable[..., Fleet]
PROMPT = 10  # computed in 0.1 s
LOAD = 12.0  # embedding, ten layers and head, 100 bytes each, at 100 bytes a second


def predicted(kind: Kind, count: int, prompt: int) -> tuple[float, float]:
    workers = [WorkerSeen(str(i), "", True, 10**9, Link(100.0), frozenset((str(i),)), "n") for i in range(count)]
    cut = best_cut(kind.model, kind.costs, workers, max_stages=4, prompt_tokens=prompt)
    named = {worker.name: worker for worker in workers}
    prediction = predict(kind.model, kind.costs, named, cut.stages, prompt)  # type: ignore[union-attr]
    return prediction.first_token, prediction.servable


def test_a_warm_replica_prefills_together_and_decodes_together(fleet: Make) -> None:
    run = fleet(AlwaysOn([1]), [(0.0, 10, 11), (0.0, 10, 21)], horizon=10.0)
    outcome = run.run()
    # The first finds the replica free and is prefilled alone (0.1 s); the second after it, beside one that decodes.
    first, second = sorted(outcome.firsts)
    assert first == pytest.approx(0.1)
    assert second == pytest.approx(0.1 + 0.11)  # ten tokens and one: 11 × 10 ms
    # Together they write one token in 20 ms each; the first has written one during the other's prefill.
    assert run.functions[0].last_ended == pytest.approx(0.21 + 9 * 0.02 + 11 * 0.01)


def test_a_prompt_that_comes_during_a_step_waits_for_its_end(fleet: Make) -> None:
    run = fleet(AlwaysOn([1]), [(0.0, 10, 11), (0.134, 10, 1)])
    outcome = run.run()
    # The first is prefilled until 0.10 and then writes a token every 10 ms: the second's step is from 0.14 to 0.25.
    assert list(outcome.firsts) == pytest.approx([0.1, 0.006 + 0.11], rel=1e-3)
    assert run.functions[0].last_ended == pytest.approx(0.25 + 5 * 0.01, rel=1e-3)


def test_a_prompt_beyond_the_budget_takes_several_steps(fleet: Make) -> None:
    outcome = fleet(AlwaysOn([1]), [(0.0, 250, 1)]).run()
    assert list(outcome.firsts) == pytest.approx([2.5])


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_first_token_of_a_cold_request_is_what_the_cut_predicts(fleet: Make, kind: Kind, count: int) -> None:
    outcome = fleet(Ours(), [(5.0, PROMPT, 1)], gpus=count).run()
    first, _ = predicted(kind, count, PROMPT)
    assert list(outcome.firsts) == pytest.approx([first])
    compute, load = 0.1, LOAD - 1.0  # the embedding's rows are read as they are needed
    law = compute + max(0.0, load - compute) / count
    assert first == pytest.approx(law, rel=0.10)


def test_four_workers_beside_one(fleet: Make) -> None:
    one, four = (fleet(Ours(), [(0.0, PROMPT, 1)], gpus=count).run().firsts[0] for count in (1, 4))
    assert 3.3 < one / four < 4.1


def test_a_second_model_waits_for_what_the_first_needs_on_the_same_links(fleet: Make, kind: Kind) -> None:
    run = fleet(Ours(), [(0.0, PROMPT, 2000)], [(1.0, PROMPT, 1)], places=2)
    firsts = sorted(run.run().firsts)
    first, servable = predicted(kind, 4, PROMPT)
    # The second begins to load when the first is servable; the first's devices fill when both are.
    assert firsts == pytest.approx([first, servable - 1.0 + first])


def test_stages_on_shared_processors_take_longer(fleet: Make) -> None:
    answer = 101  # written before one device holds all
    alone, staged = (fleet(Ours(), [(0.0, PROMPT, answer)], staged=staged).run() for staged in (1.0, 1.5))
    # The first device is held half as long again as it took to write; the others leave when it holds all.
    assert staged.integral - alone.integral == pytest.approx(0.5 * (answer - 1) * 0.01)


@pytest.mark.parametrize("policy", [Knative(), KeepAlive()], ids=lambda policy: policy.name)
def test_others_load_the_whole_model_and_then_compute(fleet: Make, policy: Knative) -> None:
    outcome = fleet(policy, [(0.0, PROMPT, 1)]).run()
    assert list(outcome.firsts) == pytest.approx([LOAD + 0.1])


def test_devices_are_held_until_the_grace_period_is_over(fleet: Make) -> None:
    outcome = fleet(Ours(), [(0.0, PROMPT, 2)], gpus=1).run()
    ended = outcome.firsts[0] + 0.01
    assert outcome.device_seconds == pytest.approx(ended + 30.0)


def test_a_pipeline_becomes_one_device_and_the_others_leave(fleet: Make, kind: Kind) -> None:
    answer = 2000  # 20 s, longer than it takes until one device holds all
    outcome = fleet(Ours(), [(0.0, PROMPT, answer), (15.0, PROMPT, 1)]).run()
    first, _ = predicted(kind, 4, PROMPT)
    alone = 15.0 - first  # seconds of decoding before the second came
    ended = 15.0 + 0.11 + (answer - 1 - alone / 0.01 - 1) * 0.01
    # The three that leave wait for what began on them, not for the request that came when one held all.
    assert outcome.device_seconds == pytest.approx(3 * ended + ended + 30.0, rel=1e-3)
    assert outcome.most == 4
    assert outcome.cold == 1


def test_the_others_of_a_pipeline_stay_when_more_replicas_are_wanted(fleet: Make) -> None:
    """Forty requests at target 16: three replicas or more, which are there as soon as one would be."""
    run = fleet(Ours(), [(0.0, 1, 3000)] * 40 + [(14.0, 1, 10)] * 3, gpus=4, horizon=60.0)
    outcome = run.run()
    assert outcome.starts == 1
    assert outcome.peaks[0] >= 3
    assert outcome.ended == 43


def test_knative_waits_for_an_empty_window_and_its_grace(fleet: Make) -> None:
    outcome = fleet(Knative(), [(0.0, PROMPT, 1)]).run()
    assert outcome.device_seconds == pytest.approx(outcome.firsts[0] + 60.0 + 30.0)


def test_keep_alive_is_ten_minutes(fleet: Make) -> None:
    outcome = fleet(KeepAlive(), [(0.0, PROMPT, 1)]).run()
    assert outcome.device_seconds == pytest.approx(outcome.firsts[0] + 600.0)


def test_workers_of_one_machine_take_turns(fleet: Make) -> None:
    """Two functions decode at once on the same processors: each at half the speed."""
    one = [(0.0, 1, 101)]
    apart = fleet(AlwaysOn([1, 1]), one, one)
    together = fleet(AlwaysOn([1, 1]), one, one, shared=True)
    apart.run()
    together.run()
    assert [function.last_ended for function in apart.functions] == pytest.approx([1.01, 1.01])
    assert [function.last_ended for function in together.functions] == pytest.approx([2.02, 2.02], rel=0.02)
