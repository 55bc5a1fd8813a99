"""Recipes: the whole grammar, and that every mistake is refused at once with its part quoted."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdi_stream.errors import ConfigError
from cdi_stream.phasing.recipe import MAX_CYCLES, NAMED, parse_recipe
from cdi_stream.phasing.shrink_wrap import ShrinkWrap
from cdi_stream.phasing.steps import AmplitudeClip, Average, Cycles, Detwin, SupportMode

REPEATABLE = settings(max_examples=300, deadline=None, derandomize=True, database=None)
ER, HIO = Cycles("ER", 2), Cycles("HIO", 3)


def steps(text: str) -> tuple[object, ...]:
    """Steps after the shrink-wrap that every recipe begins with."""
    first, *others = parse_recipe(text).steps
    assert first == ShrinkWrap(every=10, after=100, threshold=0.2, relative="max", sigma_vox=1.0)
    return tuple(others)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("20*ER", (Cycles("ER", 20),)),
        ("20*ER+30*HIO", (Cycles("ER", 20), Cycles("HIO", 30, 0.9))),
        (" 5 * HIO [ beta = 0.75 ] +\n1*ER ", (Cycles("HIO", 5, 0.75), Cycles("ER", 1))),
        (
            "5*HIO[beta=1]+4*RAAR[beta=.5]+3*DM[beta=2.]+2*AER",
            (Cycles("HIO", 5, 1), Cycles("RAAR", 4, 0.5), Cycles("DM", 3, 2), Cycles("AER", 2)),
        ),
        ("5*HIO[]+007*ER", (Cycles("HIO", 5), Cycles("ER", 7))),
        ("(2*ER+3*HIO)*2", (ER, HIO, ER, HIO)),
        ("(2*ER)", (ER,)),
        ("3*HIO+(2*ER)*0", (HIO,)),
        ("((2*ER)*2+3*HIO)*2+2*ER", (ER, ER, HIO, ER, ER, HIO, ER)),
        (" ( 2*ER + ( 3*HIO ) * 2 ) * 1 + 2*ER", (ER, HIO, HIO, ER)),
        ("(" * 8 + "2*ER" + ")*1" * 8, (ER,)),
        ("SW+2*ER", (ShrinkWrap(), ER)),
        ("SW[off]+2*ER", (None, ER)),
        ("SW[every=5]+2*ER", (ShrinkWrap(every=5), ER)),
        ("2*ER+SW[after=0,threshold=0.3,sigma=0]", (ER, ShrinkWrap(after=0, threshold=0.3, sigma_vox=0.0))),
        ("SW[ sigma = 2 , relative = rms ]+2*ER", (ShrinkWrap(sigma_vox=2.0, relative="rms"), ER)),
        ("SW[relative=mean]+SW[relative=max]+2*ER", (ShrinkWrap(relative="mean"), ShrinkWrap(), ER)),
        ("(SUPPORT[border]+2*ER)*2", (SupportMode("border"), ER) * 2),
        ("SUPPORT[full]+SUPPORT[ fixed ]+2*ER", (SupportMode("full"), SupportMode("fixed"), ER)),
        ("2*ER+DETWIN+AVG[20]", (ER, Detwin(), Average(20))),
        (
            "CLIP+2*ER+CLIP[every=5,low=0.7,high=1.3]+CLIP[off]",
            (AmplitudeClip(), ER, AmplitudeClip(5, 0.7, 1.3), AmplitudeClip(every=0)),
        ),
    ],
)
def test_a_recipe_is_read_left_to_right(text, expected):
    assert steps(text) == expected
    assert parse_recipe(text).text == text


@pytest.mark.parametrize(
    ("name", "cycles"),
    [("wu2021", 2000), ("wu2021-2d", 600), ("chan2021", 620), ("masto2025-reference", 1700), ("masto2025-er", 400)],
)
def test_the_recipes_of_the_papers_have_their_cycles(name, cycles):
    recipe = parse_recipe(f" {name} ")
    assert recipe.cycles == cycles
    assert recipe.text.strip() == name
    assert recipe.steps == parse_recipe(NAMED[name]).steps
    assert set(NAMED) == {"wu2021", "wu2021-2d", "chan2021", "masto2025-reference", "masto2025-er"}


def test_the_papers_averages_and_supports():
    assert parse_recipe("chan2021").n_averaged == 20
    assert parse_recipe("wu2021").n_averaged == 1
    assert SupportMode("border") in parse_recipe("masto2025-er").steps


def test_detwin_counts_and_no_more_is_averaged_than_there_is():
    assert parse_recipe("5*ER+DETWIN").cycles == 15
    assert parse_recipe("5*ER+AVG[20]").n_averaged == 5


TERM = "a term like "
ALGORITHM = "ER, AER, HIO, RAAR or DM with a count"


@pytest.mark.parametrize(
    ("text", "expected", "part"),
    [
        ("", TERM, "the end"),
        ("wu2022", TERM, "'wu2022'"),
        ("ER", ALGORITHM, "'ER'"),
        ("20*", TERM, "'20*'"),
        ("20*er", TERM, "'20*er'"),
        ("20*ERA+5*ER", ALGORITHM, "'20*ERA'"),
        ("5*ER+20*SW", ALGORITHM, "'20*SW'"),
        ("-5*ER", TERM, "'-5*ER'"),
        ("2.5*ER", TERM, "'2.5*ER'"),
        ("20*ER+", TERM, "the end"),
        ("+20*ER", TERM, "'+20*ER'"),
        ("20*ER,30*HIO", "'+' or the end", "',30*HIO'"),
        ("20*ER 30*HIO", "'+' or the end", "'30*HIO'"),
        ("(20*ER", "'+' or ')'", "the end"),
        ("(20*ER 5*ER)", "'+' or ')'", "'5*ER)'"),
        ("20*ER)", "'+' or the end", "')'"),
        ("()*2", TERM, "')*2'"),
        ("(2*ER)*", "'+' or the end", "'*'"),
        ("2*(2*ER)", TERM, "'2*(2*ER)'"),
        ("20*ER[beta=0.9]", "nothing", "'20*ER[beta=0.9]'"),
        ("20*ER+30*HIO[0.9]+5*ER", "beta as name=value", "'30*HIO[0.9]'"),
        ("30*HIO[beta=]", "a number like beta=0.9", "'30*HIO[beta=]'"),
        ("30*HIO[beta=-1]", "a number like beta=0.9", "'30*HIO[beta=-1]'"),
        ("30*HIO[beta=0.9.1]", "a number like beta=0.9", "'30*HIO[beta=0.9.1]'"),
        ("30*HIO[beta=.]", "a number like beta=0.9", "'30*HIO[beta=.]'"),
        ("30*HIO[beta=0]", "0 < beta <= 2", "'30*HIO[beta=0]'"),
        ("30*DM[beta=2.1]", "0 < beta <= 2", "'30*DM[beta=2.1]'"),
        ("30*HIO[beta=1,beta=1]", "each once", "'30*HIO[beta=1,beta=1]'"),
        ("30*HIO[beta=1", "'+' or the end", "'[beta=1'"),
        ("30*HIO[gamma=1]", "not 'gamma=1'", "'30*HIO[gamma=1]'"),
        ("SW[every=0]+5*ER", "every >= 1", "'SW[every=0]'"),
        ("SW[every=2.5]+5*ER", "a number like every=10", "'SW[every=2.5]'"),
        ("SW[threshold=0]+5*ER", "threshold > 0", "'SW[threshold=0]'"),
        ("SW[relative=median]+5*ER", "relative=max or mean or rms", "'SW[relative=median]'"),
        ("SW[relative=max rms]+5*ER", "relative=max or mean or rms", "'SW[relative=max rms]'"),
        ("SW[relative=max,relative=rms]+5*ER", "each once", "'SW[relative=max,relative=rms]'"),
        ("SW[on]+5*ER", "every, after, threshold, relative, sigma", "'SW[on]'"),
        ("SUPPORT+5*ER", "SUPPORT[full]", "'SUPPORT'"),
        ("SUPPORT[loose]+5*ER", "[border] or [fixed]", "'SUPPORT[loose]'"),
        ("DETWIN[2]+5*ER", "nothing", "'DETWIN[2]'"),
        ("5*ER+AVG", "AVG[1] to AVG[1000]", "'AVG'"),
        ("5*ER+AVG[0]", "AVG[1] to AVG[1000]", "'AVG[0]'"),
        ("5*ER+AVG[²]", "AVG[1] to AVG[1000]", "'AVG[²]'"),
        ("5*ER+AVG[1001]", "AVG[1] to AVG[1000]", "'AVG[1001]'"),
        ("CLIP[low=1]+5*ER", "low < 1 < high", "'CLIP[low=1]'"),
        ("CLIP[every=0]+5*ER", "every >= 1", "'CLIP[every=0]'"),
        ("5*ER+FLAT[low=0.5]+5*ER", "CLIP, which is the present name of FLAT", "'FLAT[low=0.5]'"),
        ("FLAT[off]", "CLIP, which is the present name of FLAT", "'FLAT[off]'"),
        ("SW[off]", "1 to 1000000 cycles", "0"),
        ("0*ER", "1 to 1000000 cycles", "0"),
        ("(5*ER)*0", "1 to 1000000 cycles", "0"),
        ("1000001*ER", "1 to 1000000 cycles", "1000001"),
        ("(" * 9 + "5*ER" + ")" * 9, "groups at most 8 deep", "'5*ER" + ")" * 9 + "'"),
    ],
)
def test_a_mistake_is_refused_with_its_part_quoted(text, expected, part):
    with pytest.raises(ConfigError) as caught:
        parse_recipe(text)
    message = str(caught.value)
    assert message.startswith(f"recipe {text!r}: expected ")
    assert expected in message
    assert message.endswith(f"got {part}")


@pytest.mark.parametrize(
    "text",
    [
        "9" * 100_000 + "*ER",
        "(5*ER)*" + "9" * 100_000,
        "(" * 8 + "1*ER" + ")*999999" * 8,
        "(" * 8 + "SW" + ")*10" * 8,
        "(" * 1_000_000 + "5*ER",
        "+".join(["1*ER"] * 200_000),
        "5*ER+SW[threshold=" + "9" * 100_000 + "x]",
        "5*ER" + " " * 200_000 + "5*ER",
        f"{MAX_CYCLES}*ER+1*ER",
    ],
    ids=range(9),
)
def test_what_is_too_much_is_refused_quickly(text):
    begin_s = time.process_time()
    with pytest.raises(ConfigError) as caught:
        parse_recipe(text)
    assert time.process_time() - begin_s < 2
    assert len(str(caught.value)) < 2000


def test_the_most_that_is_allowed():
    assert parse_recipe(f"{MAX_CYCLES}*ER").cycles == MAX_CYCLES
    assert parse_recipe("((1*ER)*1000)*100").cycles == 100_000


WORDS = ["5*ER", "3*HIO", "2*RAAR[beta=0.8]", "SW", "SW[off]", "SUPPORT[border]", "DETWIN", "AVG[3]", "CLIP[off]"]
TEXTS = st.recursive(
    st.sampled_from(WORDS),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("+".join),
        st.tuples(inner, st.integers(1, 3)).map(lambda pair: f"({pair[0]})*{pair[1]}"),
    ),
    max_leaves=6,
)


@given(TEXTS)
@REPEATABLE
def test_a_group_is_its_steps_written_out(text):
    one = steps(text + "+1*ER")
    assert steps(f"({text})*3+1*ER") == one[:-1] * 3 + one[-1:]
    assert steps(text.replace("+", " +  ").replace("(", "( ") + "+1*ER") == one


@given(st.text("0123456789*+()[]=,.ERHIODMSWAVGbeta offull \n²", max_size=30))
@REPEATABLE
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(ConfigError):
        assert parse_recipe(text).cycles > 0
