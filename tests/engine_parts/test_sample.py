"""A token is a function of its row alone, and of the right distribution."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from forebay_worker.engine.said import Said
from forebay_worker.engine.sample import NotFinite, Params, Row, choose, uniform

VOCABULARY = 50


def row(
    params: Params, position: int = 0, choice: int = 0, prompt: Sequence[int] = (), said: Sequence[int] = ()
) -> Row:
    return Row(params, choice, position, Said(prompt, said) if params.penalizes else None)


def logits(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, VOCABULARY, generator=torch.Generator().manual_seed(seed)) * 2


def possible(line: torch.Tensor, params: Params, draws: int = 400) -> set[int]:
    return {choose(line[None], [row(params, position)])[0].token for position in range(draws)}


anything = st.builds(
    Params,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
    top_p=st.sampled_from([1.0, 0.9, 0.3]),
    top_k=st.sampled_from([0, 1, 5, 1000]),
    min_p=st.sampled_from([0.0, 0.05, 0.5]),
    presence_penalty=st.sampled_from([0.0, 1.0]),
    frequency_penalty=st.sampled_from([0.0, -0.5]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    min_tokens=st.sampled_from([0, 3]),
    eos=st.just(frozenset({2, 999})),
    logit_bias=st.sampled_from([(), ((3, 5.0), (4, -100.0))]),
    seed=st.integers(0, 2**64 - 1),
    logprobs=st.booleans(),
    top_logprobs=st.integers(0, 5),
)
rows = st.builds(
    row,
    anything,
    choice=st.integers(0, 3),
    position=st.integers(0, 1000),
    prompt=st.lists(st.integers(0, VOCABULARY - 1), max_size=5),
    said=st.lists(st.integers(0, VOCABULARY - 1), max_size=5),
)


@settings(max_examples=60)
@given(batch=st.lists(rows, min_size=1, max_size=6), seed=st.integers(0, 1000))
def test_company_changes_nothing(batch: list[Row], seed: int) -> None:
    lines = logits(len(batch), seed)
    untouched = lines.clone()
    together = choose(lines, batch)
    assert torch.equal(lines, untouched)
    for index, (mine, chosen) in enumerate(zip(batch, together, strict=True)):
        alone = choose(lines[index : index + 1], [mine])[0]
        assert alone.token == chosen.token
        assert alone.logprob == pytest.approx(chosen.logprob, abs=1e-5)
        assert [token for token, _ in alone.top] == [token for token, _ in chosen.top]


def test_greedy_is_the_largest() -> None:
    lines = logits(9)
    assert [chosen.token for chosen in choose(lines, [row(Params())] * 9)] == lines.argmax(-1).tolist()


def test_draws_follow_the_distribution() -> None:
    line = torch.tensor([0.5, 0.25, 0.125, 0.125]).log()
    draws = 4000
    lines = line.expand(draws, -1)
    counts = Counter(
        chosen.token for chosen in choose(lines, [row(Params(temperature=1.0, seed=5), at) for at in range(draws)])
    )
    for token, share in enumerate((0.5, 0.25, 0.125, 0.125)):
        assert abs(counts[token] / draws - share) < 4 * math.sqrt(share * (1 - share) / draws)


def test_a_small_error_in_the_logits_rarely_changes_a_draw() -> None:
    lines = logits(500)
    batch = [row(Params(temperature=1.0, seed=1), at) for at in range(500)]
    near = choose(lines + 1e-5 * torch.randn(lines.shape), batch)
    assert sum(a.token != b.token for a, b in zip(choose(lines, batch), near, strict=True)) <= 2


def test_seed_choice_and_position_each_matter() -> None:
    assert len({uniform(seed, choice, at) for seed in range(5) for choice in range(5) for at in range(5)}) == 125
    assert all(0 <= uniform(seed, 0, 0) < 1 for seed in (0, 2**63, 2**64 - 1))


def test_narrowing() -> None:
    line = torch.tensor([0.4, 0.3, 0.2, 0.06, 0.04]).log()
    assert possible(line, Params(temperature=1.0)) == {0, 1, 2, 3, 4}
    assert possible(line, Params(temperature=1.0, top_k=2)) == {0, 1}
    assert possible(line, Params(temperature=1.0, top_p=0.65)) == {0, 1}
    assert possible(line, Params(temperature=1.0, top_p=0.75)) == {0, 1, 2}
    assert possible(line, Params(temperature=1.0, top_p=0.0)) == {0}
    assert possible(line, Params(temperature=1.0, min_p=0.4)) == {0, 1, 2}
    assert possible(line, Params(temperature=1.0, top_k=3, top_p=0.6)) == {0, 1}, "top_p of what top_k left"
    assert possible(line, Params(temperature=1.0, top_k=1000)) == {0, 1, 2, 3, 4}


def test_penalties() -> None:
    line = torch.tensor([[2.0, 1.9, 1.5, -1.0]])
    greedy = {
        "none": Params(),
        "presence": Params(presence_penalty=0.2),
        "frequency": Params(frequency_penalty=0.3),
        "repetition": Params(repetition_penalty=1.5),
    }
    chosen = {name: choose(line, [row(params, prompt=[1], said=[0, 0])])[0].token for name, params in greedy.items()}
    assert chosen == {"none": 0, "presence": 1, "frequency": 1, "repetition": 2}, "repetition counts the prompt, too"


@settings(max_examples=60)
@given(
    params=anything.filter(lambda params: params.penalizes),
    prompt=st.lists(st.integers(0, VOCABULARY - 1), max_size=80),
    said=st.lists(st.integers(0, VOCABULARY - 1), max_size=80),
    seed=st.integers(0, 1000),
)
def test_what_was_said_counts_the_same_when_it_is_kept_up(
    params: Params, prompt: list[int], said: list[int], seed: int
) -> None:
    kept = Said(prompt)
    line = logits(1, seed)
    for at, token in enumerate(said):
        now = choose(line, [Row(params, 0, at, kept)])
        assert now == choose(line, [row(params, at, prompt=prompt, said=said[:at])])
        kept.add(token)
    with torch.inference_mode():
        seen, own, counts = (column.on(line.device).tolist() for column in (kept.seen, kept.own, kept.counts))
    assert sorted(seen) == sorted({*prompt, *said})
    assert dict(zip(own, counts, strict=True)) == Counter(said)


def test_bias_and_forbidden_ends() -> None:
    line = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    early = Params(min_tokens=2, eos=frozenset({0, 77}))
    assert choose(line, [row(early, 1)])[0].token == 1
    assert choose(line, [row(early, 2)])[0].token == 0
    assert choose(line, [row(Params(logit_bias=((3, 100.0), (99, 1.0))))])[0].token == 3


def test_logprobs_are_the_models_own() -> None:
    line = torch.tensor([[0.5, 0.25, 0.125, 0.125]]).log()
    params = Params(temperature=0.1, logit_bias=((2, 100.0),), logprobs=True, top_logprobs=2)
    chosen = choose(line, [row(params)])[0]
    assert (chosen.token, chosen.logprob) == (2, pytest.approx(math.log(0.125)))
    assert chosen.top == ((0, pytest.approx(math.log(0.5))), (1, pytest.approx(math.log(0.25))))
    quiet = choose(line, [row(Params())])[0]
    assert (quiet.logprob, quiet.top) == (0.0, ())


def test_sick_logits_are_told() -> None:
    lines = logits(3)
    lines[1, 4] = torch.nan
    with pytest.raises(NotFinite) as caught:
        choose(lines, [row(Params(temperature=1.0))] * 3)
    assert caught.value.rows == (1,)


@pytest.mark.parametrize(
    "extreme",
    [
        {"repetition_penalty": 1e-38},
        {"repetition_penalty": 3e38},
        {"presence_penalty": -3e38, "frequency_penalty": -3e38},
        {"presence_penalty": 3e38, "frequency_penalty": 3e38},
        {"logit_bias": tuple((token, 3e38) for token in range(VOCABULARY))},
        {"logit_bias": ((3, -3e38),), "presence_penalty": -3e38, "repetition_penalty": 1e-38},
    ],
)
@pytest.mark.parametrize("temperature", [0.0, 1.1e-5, 1.0, 3e38])
def test_whatever_is_asked_the_device_is_not_to_blame(extreme: dict[str, Any], temperature: float) -> None:
    lines = logits(1)
    everything = tuple(range(VOCABULARY))
    asked = Params(temperature=temperature, **extreme)
    (chosen,) = choose(lines, [row(asked, prompt=everything, said=everything)])
    assert chosen.token in everything
    lines[0, 7] = torch.inf
    with pytest.raises(NotFinite):
        choose(lines, [row(asked, prompt=everything, said=everything)])
