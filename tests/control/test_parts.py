"""What the operator's parts promise each by itself."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from control.actors import checkpoint, until
from forebay_api.function import FunctionKey
from forebay_api.model import Epoch, Model, Stage
from forebay_operator import routes as routes_module
from forebay_operator import wire
from forebay_operator.control import Alarm
from forebay_operator.decide.seen import HoldingSeen, Link, PipelinePhase, PipelineSeen, Snapshot, WorkerSeen
from forebay_operator.decide.steps import Dissolve, Drain, Drop, Form, Hold, Inspect, Prediction, Prepare
from forebay_operator.inspections import DOUBT, RETRY, Failure, Inspections
from forebay_operator.progress import Phase, progress
from forebay_operator.reports import pipelines_seen, worker_seen
from forebay_operator.sent import PATIENCE, Sent
from forebay_operator.settling import Settling
from forebay_operator.snapshot import Epochs
from forebay_operator.subject import Subject
from forebay_operator.term import Term
from forebay_operator.timeline import ColdStart
from forebay_wire.v1 import demand_pb2, fleet_pb2, model_pb2

E1 = Epoch(1, 1)
FORM = Form(E1, "aaaa", (Stage("w0", 0, 3), Stage("w1", 4, 7)), 8, 16, 1, 512)


def worker(name: str, **holdings: HoldingSeen) -> WorkerSeen:
    return WorkerSeen(name, f"{name}-1", True, 1 << 30, Link(1e6), frozenset(("cpu",)), holdings=holdings)


def snapshot(*workers: WorkerSeen, pipelines: tuple[PipelineSeen, ...] = ()) -> Snapshot:
    return Snapshot((), {}, workers, pipelines, Epoch(1, 1))


class TestTerm:
    def test_grows_with_every_start(self, tmp_path: Path) -> None:
        assert [Term(tmp_path / "term").number for _ in range(3)] == [1, 2, 3]

    def test_rises_only_above_a_higher_one(self, tmp_path: Path) -> None:
        term = Term(tmp_path / "term")
        term.rise_above(1)
        assert term.number == 1
        term.rise_above(7)
        assert term.number == 8
        assert Term(tmp_path / "term").number == 9

    def test_a_damaged_file_begins_anew(self, tmp_path: Path) -> None:
        (tmp_path / "term").write_text("x")
        assert Term(tmp_path / "term").number == 1


class TestEpochs:
    def test_counts_above_what_is_reported_and_what_was_taken(self) -> None:
        epochs = Epochs()
        assert epochs.following(3, [Epoch(2, 9), Epoch(3, 4)]) == Epoch(3, 5)
        epochs.take(Epoch(3, 5))
        assert epochs.following(3, []) == Epoch(3, 6)
        assert epochs.following(4, [Epoch(3, 6)]) == Epoch(4, 1)

    def test_an_equal_term_of_another_life_is_respected(self) -> None:
        assert Epochs().following(5, [], used=[12]) == Epoch(5, 13)


class TestSettling:
    SETTLING = Settling(began=100.0, grow=1.5, shrink=3.0)
    PIPELINE = PipelineSeen(E1, "aaaa", FORM.stages, PipelinePhase.FORMED)

    def test_inspects_first_then_grows_then_shrinks(self) -> None:
        steps = (Inspect("w0", "u", "auto"), Prepare("w0", "a", True), Hold("w2", "a", (0,), 1), Drain(Epoch(1, 9)))
        seen = snapshot()
        assert self.SETTLING.allowed(steps, seen, 101.0) == steps[:2]
        assert self.SETTLING.allowed(steps, seen, 102.0) == steps[:3]
        assert self.SETTLING.allowed(steps, seen, 103.0) == steps

    def test_what_needs_room_waits_with_what_makes_it(self) -> None:
        steps = (Drop("w0", "bbbb"), Hold("w0", "aaaa", (0,), 1), Hold("w2", "aaaa", (0,), 1), FORM)
        assert self.SETTLING.allowed(steps, snapshot(), 102.0) == (steps[2],)

    def test_a_pipeline_that_its_workers_gave_up_may_be_dissolved(self) -> None:
        whole = snapshot(pipelines=(self.PIPELINE,))
        broken = snapshot(
            pipelines=(PipelineSeen(E1, "aaaa", FORM.stages, PipelinePhase.BROKEN),),
        )
        steps = (Dissolve(E1), FORM)
        assert self.SETTLING.allowed(steps, whole, 102.0) == ()
        assert self.SETTLING.allowed(steps, broken, 102.0) == steps

    def test_wakes_when_more_becomes_possible(self) -> None:
        assert [self.SETTLING.wake_at(now) for now in (100.0, 101.5, 103.0)] == [101.5, 103.0, None]


class TestSent:
    def test_an_order_is_laid_over_until_reported(self) -> None:
        sent, hold = Sent(), Hold("w0", "aaaa", (0, 1), 2)
        sent.note(hold, {"w0": "w0-1"}, 10.0)
        seen = sent.laid_over(snapshot(worker("w0")), 10.1)
        assert seen.workers[0].holdings["aaaa"].order == (0, 1)
        reported = worker("w0", aaaa=HoldingSeen(order=(0, 1)))
        assert sent.laid_over(snapshot(reported), 10.2).workers[0].holdings["aaaa"].urgent == 2
        assert sent.wake_at() is None

    def test_an_order_that_nobody_confirms_is_forgotten(self) -> None:
        sent = Sent()
        sent.note(Hold("w0", "aaaa", (0,), 1), {"w0": "w0-1"}, 10.0)
        assert sent.wake_at() == 10.0 + PATIENCE
        assert not sent.laid_over(snapshot(worker("w0")), 10.0 + PATIENCE).workers[0].holdings

    def test_an_order_dies_with_the_process_that_was_told(self) -> None:
        sent = Sent()
        sent.note(FORM, {"w0": "w0-1", "w1": "w1-0"}, 10.0)
        assert not sent.laid_over(snapshot(worker("w0"), worker("w1")), 10.1).pipelines

    def test_loading_again_outdates_letting_go(self) -> None:
        sent = Sent()
        sent.note(Drop("w0", "aaaa"), {"w0": "w0-1"}, 10.0)
        sent.note(Hold("w0", "aaaa", (0,), 1), {"w0": "w0-1"}, 10.1)
        seen = sent.laid_over(snapshot(worker("w0", aaaa=HoldingSeen(frozenset((0,)), (0,)))), 10.2)
        assert not seen.workers[0].holdings["aaaa"].leaving

    def test_a_pipeline_told_to_drain_takes_nothing_at_once(self) -> None:
        sent = Sent()
        sent.note(Drain(E1), {"w0": "w0-1"}, 10.0)
        assert sent.told_to_leave(E1)
        formed = PipelineSeen(E1, "aaaa", (Stage("w0", 0, 7),), PipelinePhase.FORMED)
        seen = sent.laid_over(snapshot(worker("w0"), pipelines=(formed,)), 10.1)
        assert seen.pipelines[0].phase is PipelinePhase.DRAINING

    def test_a_pipeline_that_came_and_went_unseen_is_not_drained_for_ever(self) -> None:
        sent, both = Sent(), {"w0": "w0-1", "w1": "w1-1"}
        nothing = snapshot(worker("w0"), worker("w1"))
        sent.note(FORM, both, 10.0)
        sent.note(Drain(E1), both, 10.1)
        assert sent.laid_over(nothing, 10.2).pipelines[0].phase is PipelinePhase.DRAINING
        assert sent.laid_over(nothing, 10.3).pipelines[0].phase is PipelinePhase.DRAINING
        sent.note(Dissolve(E1), both, 10.4)
        assert not sent.laid_over(nothing, 10.5).pipelines


class TestReports:
    def test_only_the_head_knows_that_a_pipeline_is_drained(self) -> None:
        def report(name: str, phase: int, head: bool) -> fleet_pb2.WorkerReport:
            stages = [model_pb2.Stage(worker="w0", last=3), model_pb2.Stage(worker="w1", first=4, last=7)]
            state = fleet_pb2.PipelineState(
                epoch=wire.epoch_message(E1), backbone="aaaa", stages=stages, phase=phase, head=head, running=1
            )
            return fleet_pb2.WorkerReport(name=name, pipelines=[state])

        drained, draining = fleet_pb2.PipelineState.DRAINED, fleet_pb2.PipelineState.DRAINING
        seen = pipelines_seen([report("w0", drained, False), report("w1", draining, True)])[E1]
        assert (seen.phase, seen.running) == (PipelinePhase.DRAINING, 1)
        seen = pipelines_seen([report("w0", draining, False), report("w1", drained, True)])[E1]
        assert (seen.phase, seen.reported_by) == (PipelinePhase.DRAINED, {"w0", "w1"})

    def test_of_faults_only_those_accuse_a_model_that_its_files_may_have_caused(self) -> None:
        report = fleet_pb2.WorkerReport(name="w0")
        for reason in ("NotANumber", "StepFailed", "DeviceError"):
            report.faults.add(reason=reason, backbone=reason.lower())
        assert worker_seen(report).not_numbers == {"notanumber", "stepfailed"}


class TestInspections:
    SUBJECT = Subject("file:///m", "auto")
    PRESENT = {"w0": "w0-1"}  # noqa: RUF012

    def fail(self, inspections: Inspections, now: float) -> None:
        question = inspections.ask(self.SUBJECT, "w0", "w0-1", now)
        assert question is not None
        inspections.hear(fleet_pb2.Inspection(id=question.id, reason="ArtifactNotFound", message="no"))
        inspections.settle(self.PRESENT, now)

    def test_one_question_at_a_time(self) -> None:
        inspections = Inspections()
        assert inspections.ask(self.SUBJECT, "w0", "w0-1", 1.0) is not None
        assert inspections.ask(self.SUBJECT, "w1", "w1-1", 1.0) is None
        inspections.settle({}, 2.0)  # its worker is gone: another one may be asked
        assert inspections.ask(self.SUBJECT, "w1", "w1-1", 2.0) is not None

    def test_a_failure_is_kept_and_looked_at_again_later(self) -> None:
        inspections = Inspections()
        self.fail(inspections, 1.0)
        assert inspections.found(self.SUBJECT) == Failure("ArtifactNotFound", "no", 1.0)
        assert inspections.due({self.SUBJECT: RETRY}, 1.0 + RETRY - 0.1) == []
        assert inspections.due({self.SUBJECT: RETRY}, 1.0 + RETRY) == [self.SUBJECT]
        assert inspections.due({self.SUBJECT: DOUBT}, 1.0 + DOUBT) == [self.SUBJECT]
        assert inspections.wake_at(2.0) == 1.0 + RETRY

    def test_what_is_due_already_does_not_keep_the_loop_awake(self) -> None:
        """With no worker to ask it would turn as fast as it can."""
        inspections = Inspections()
        self.fail(inspections, 1.0)
        assert inspections.wake_at(1.0 + RETRY) is None

    def test_what_is_condemned_stays_so_until_its_files_are_others(self) -> None:
        inspections = Inspections()

        def look(backbone: str, now: float) -> Model | Failure | None:
            question = inspections.ask(self.SUBJECT, "w0", "w0-1", now)
            assert question is not None
            inspections.hear(fleet_pb2.Inspection(id=question.id, model=checkpoint(backbone, "file:///m")))
            inspections.settle(self.PRESENT, now)
            return inspections.found(self.SUBJECT)

        assert isinstance(look("aaaa", 1.0), Model)
        inspections.condemn("bbbb", "not mine", 2.0)
        assert isinstance(inspections.found(self.SUBJECT), Model)
        inspections.condemn("aaaa", "no numbers", 2.0)
        assert look("aaaa", 2.0 + RETRY) == Failure("ModelLoadFailed", "no numbers", 2.0 + RETRY)
        assert isinstance(look("cccc", 2.0 + 2 * RETRY), Model)

    def test_an_answer_to_an_earlier_operator_is_dropped(self) -> None:
        inspections = Inspections()
        inspections.hear(fleet_pb2.Inspection(id="theirs", model=checkpoint("aaaa", "file:///m")))
        inspections.settle(self.PRESENT, 1.0)
        assert inspections.found(self.SUBJECT) is None


class TestProgress:
    def start(self, **changes: object) -> ColdStart:
        start = ColdStart(
            FunctionKey("default", "a"),
            wire.model(checkpoint("aaaa", "file:///m/a")),
            E1,
            FORM.stages,
            Prediction(2.0, 3.0, 10),
            100.0,
            100.0,
        )
        for name, value in changes.items():
            setattr(start, name, value)
        return start

    @pytest.mark.parametrize(
        ("start", "waiting", "phase"),
        [
            (None, False, None),
            (None, True, Phase.QUEUED),
            ({}, True, Phase.PLANNING),
            ({"first_byte_at": 100.1}, True, Phase.LOADING),
            ({"first_byte_at": 100.1, "servable_at": 102.0}, True, Phase.SERVING),
            ({"first_byte_at": 100.1, "servable_at": 102.0}, False, None),
            ({"first_byte_at": 100.1, "servable_at": 102.0, "first_token_at": 102.0}, False, None),
            ({"over": True}, False, None),
        ],
    )
    def test_phases(self, start: dict[str, object] | None, waiting: bool, phase: Phase | None) -> None:
        cold = None if start is None else self.start(**start)
        found = progress(cold, waiting=waiting, formed=False, now=101.0)
        assert (found and found.phase) == phase

    def test_counts_bytes_and_seconds(self) -> None:
        start = self.start(first_byte_at=100.5, resident={("w0", 1), ("w1", 7), ("w1", 1)})
        found = progress(start, waiting=True, formed=True, now=101.0)
        assert found is not None
        assert found.fraction == pytest.approx(2 / 7)  # of six layers and the head; w1's other unit is no part
        assert found.eta == pytest.approx(2.5)


class TestRoutes:
    def table(self, fraction: float, name: str = "a") -> demand_pb2.RouteTable:
        route = demand_pb2.FunctionRoute(name=name, progress=demand_pb2.Progress(phase="Loading", fraction=fraction))
        return demand_pb2.RouteTable(term=1, functions=[route])

    async def test_news_go_at_once_and_progress_now_and_then(self) -> None:
        routes = routes_module.Routes(progress_seconds=0.1)
        routes.publish(self.table(0.1))
        routes.publish(self.table(0.1))
        assert routes.table is not None
        assert routes.table.version == 1
        routes.publish(self.table(0.2))
        routes.publish(self.table(0.3))
        assert routes.table.version == 1
        await until(lambda: routes.table.version == 2)
        assert routes.table.functions[0].progress.fraction == pytest.approx(0.3)
        routes.publish(self.table(0.3, name="b"))
        assert routes.table.version == 3


class TestAlarm:
    async def test_the_most_urgent_counts(self) -> None:
        alarm = Alarm()
        await alarm.ring()  # the first pass is due at once
        alarm.within(60.0)
        ringing = asyncio.ensure_future(alarm.ring())
        await asyncio.sleep(0)
        assert not ringing.done()
        alarm.within(0.0)
        async with asyncio.timeout(5):
            await ringing
