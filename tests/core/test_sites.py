import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cutaway.core.errors import BadOption, BadShape, NotPossible
from cutaway.core.site import INPUT, Site, head_count, unit_axis

name = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_\-]{0,6}", fullmatch=True)
number = st.integers(0, 9999)
sites = st.builds(
    Site,
    module=st.lists(name, min_size=1, max_size=3).map(".".join),
    call=st.none() | number,
    part=st.lists(st.from_regex(r"[A-Za-z0-9_]{1,5}", fullmatch=True), max_size=2).map(tuple),
    position=st.none() | st.lists(number, min_size=1, max_size=2).map(tuple),
).flatmap(
    lambda s: st.one_of(
        st.just(s),
        number.map(lambda k: Site(s.module, s.call, s.part, unit=k, position=s.position)),
        number.map(lambda k: Site(s.module, s.call, s.part, head=k, position=s.position)),
    )
)


@given(sites)
def test_text_round_trips(site):
    assert Site.of(str(site)) == site
    assert Site.of(site) is site


@given(st.text(max_size=12))
def test_any_text_is_a_site_or_refused(text):
    try:
        site = Site.of(text)
    except BadOption:
        return
    assert Site.of(str(site)) == site


@pytest.mark.parametrize(
    ("text", "site"),
    [
        ("conv3", Site("conv3")),
        ("conv3:12", Site("conv3", unit=12)),
        ("conv3:12@4,5", Site("conv3", unit=12, position=(4, 5))),
        ("conv3@4,5", Site("conv3", position=(4, 5))),
        ("blocks.2.attn:h3", Site("blocks.2.attn", head=3)),
        ("relu#2", Site("relu", call=2)),
        ("lstm/0", Site("lstm", part=("0",))),
        ("encoder/last_hidden_state", Site("encoder", part=("last_hidden_state",))),
        ("rnn#1/1/0:3@2", Site("rnn", 1, ("1", "0"), 3, None, (2,))),
        ("α.β-1", Site("α.β-1")),
        ("head/stage-1.x/0", Site("head", part=("stage-1.x", "0"))),
        ("input", INPUT),
    ],
)
def test_documented_forms_mean_what_they_say(text, site):
    assert Site.of(text) == site


@pytest.mark.parametrize(
    "text", ["", ":3", "conv3:", "conv3:-1", "conv3@", "conv3@1,", "a b", "conv3:h", "conv3#x", "../x", 3, None]
)
def test_other_texts_are_refused_with_an_example(text):
    with pytest.raises(BadOption, match=re.escape("conv3:12@4,5")):
        Site.of(text)


def test_whole_drops_unit_head_and_position():
    assert str(Site.of("rnn#1/0:3@2").whole) == "rnn#1/0"
    assert Site.of("rnn#1/0").is_whole
    assert not Site.of("rnn@2").is_whole


def test_units_are_channels_of_images_and_dimensions_of_tokens():
    assert unit_axis(torch.zeros(2, 3, 4, 5)) == 1
    assert unit_axis(torch.zeros(2, 7, 5)) == 2
    assert unit_axis(torch.zeros(2, 7, 5), nn.Conv1d(3, 7, 1)) == 1
    assert unit_axis(torch.zeros(2, 7)) == 1
    assert unit_axis(torch.zeros(2, 4, 4, 5), nn.Linear(3, 5)) == 3
    assert unit_axis(torch.zeros(2, 4, 4, 5), nn.LayerNorm(5)) == 3
    assert unit_axis(torch.zeros(2, 3, 4, 4), nn.LayerNorm((3, 4, 4))) == 1
    with pytest.raises(BadShape, match="units"):
        unit_axis(torch.zeros(2))


@pytest.mark.parametrize(
    ("text", "what"), [("c:3", "unit below 3"), ("c@4,0", "position below 4"), ("c@0", "2 coordinates")]
)
def test_an_index_outside_is_refused(text, what):
    with pytest.raises(BadShape, match=what):
        Site.of(text).index(torch.zeros(2, 3, 4, 5))


def test_a_position_counts_rows_then_columns():
    x = torch.arange(2 * 3 * 4 * 5).view(2, 3, 4, 5)
    assert torch.equal(x[Site.of("c:1@2,3").index(x)], x[:, 1, 2, 3])
    assert torch.equal(x[Site.of("c@2,3").index(x)], x[:, :, 2, 3])


class Heads(nn.Module):
    num_attention_heads = 2


def test_a_head_is_its_share_of_the_dimensions():
    x = torch.arange(2 * 3 * 8).view(2, 3, 8)
    assert torch.equal(x[Site.of("attn:h1").index(x, Heads())], x[:, :, 4:])
    with pytest.raises(BadShape, match="head below 2"):
        Site.of("attn:h2").index(x, Heads())


def test_heads_that_were_mixed_are_refused_by_name():
    with pytest.raises(NotPossible, match="mixes its heads in 'out_proj'"):
        head_count(nn.MultiheadAttention(4, 2), "attn:h0")
    with pytest.raises(NotPossible, match="Linear has no num_heads"):
        head_count(nn.Linear(2, 2), "fc:h0")
