"""Linear layers replaced in models of every kind: shared, without bias, odd sizes, nested."""

from __future__ import annotations

import pytest

from autotune.host import detect
from autotune.shared.errors import TrialFailure
from autotune.shared.instructions import has_vnni

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def linear(torch):
    from autotune.worker.engines import linear

    return linear


def shared_and_nested(torch):
    """Two paths to one Linear, one without bias, one deep inside, one of odd size."""
    nn = torch.nn
    torch.manual_seed(0)
    one = nn.Linear(7, 7)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = one, one
            self.deep = nn.Sequential(nn.ModuleList([nn.Linear(7, 5, bias=False)])[0], nn.GELU())
            self.last = nn.Linear(5, 1)

        def forward(self, x):
            return self.last(self.deep(self.second(self.first(x))))

    return Model().eval()


@pytest.mark.parametrize("shape", [(7,), (1, 7), (3, 7), (2, 5, 7)])
def test_onednn_gives_the_same_numbers(torch, linear, shape):
    model, x = shared_and_nested(torch), torch.randn(shape)
    with torch.no_grad():
        before = model(x)
        assert linear.pack_for_onednn(model, torch.float32) == 4
        torch.testing.assert_close(model(x), before, atol=1e-5, rtol=1e-5)


def test_onednn_can_be_traced_and_frozen_for_other_shapes(torch, linear):
    model = shared_and_nested(torch)
    with torch.no_grad():
        linear.pack_for_onednn(model, torch.float32)
        traced = torch.jit.trace(model, torch.randn(2, 4, 7), check_trace=False)
        frozen = torch.jit.freeze(traced)
        for shape in ((1, 1, 7), (5, 9, 7)):
            x = torch.randn(shape)
            torch.testing.assert_close(frozen(x), model(x))


def feed_forward(torch, activation, reused=False):
    """Linear, activation, Linear; with `reused` the first output is read twice."""
    nn = torch.nn
    torch.manual_seed(0)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.act, self.down = nn.Linear(8, 16), activation, nn.Linear(16, 8)

        def forward(self, x):
            hidden = self.up(x)
            wide = self.act(hidden)
            return self.down(wide + hidden if reused else wide)

    return Model().eval()


def fused(torch, linear, model, x):
    linear.pack_for_onednn(model, torch.float32)
    return linear.fuse_gelus(model, {"x": x})


def test_a_gelu_behind_a_linear_is_fused_into_it(torch, linear):
    model, x = feed_forward(torch, torch.nn.GELU()), torch.randn(3, 5, 8)
    with torch.no_grad():
        before = model(x)
        assert fused(torch, linear, model, x) == 1
        assert isinstance(model.act, torch.nn.Identity)
        torch.testing.assert_close(model(x), before, atol=1e-5, rtol=1e-5)
        frozen = torch.jit.freeze(torch.jit.trace(model, x, check_trace=False))
        torch.testing.assert_close(frozen(x[:1]), before[:1], atol=1e-5, rtol=1e-5)


def test_what_is_no_exact_gelu_or_not_alone_is_left(torch, linear):
    x = torch.randn(3, 8)
    cases = [
        feed_forward(torch, torch.nn.GELU(approximate="tanh")),
        feed_forward(torch, torch.nn.ReLU()),
        feed_forward(torch, torch.nn.GELU(), reused=True),
    ]
    with torch.no_grad():
        for model in cases:
            before = model(x)
            assert fused(torch, linear, model, x) == 0
            torch.testing.assert_close(model(x), before, atol=1e-5, rtol=1e-5)


def test_an_activation_that_serves_two_layers_is_fused_into_both_or_neither(torch, linear):
    nn = torch.nn
    gelu = nn.GELU()

    class Twice(nn.Module):
        def __init__(self, norm):
            super().__init__()
            self.a, self.b, self.act, self.norm = nn.Linear(8, 8), nn.Linear(8, 8), gelu, norm

        def forward(self, x):
            return self.act(self.norm(self.b(self.act(self.a(x)))))

    x = torch.randn(3, 8)
    with torch.no_grad():
        for norm, count in ((nn.Identity(), 2), (nn.LayerNorm(8), 0)):
            model = Twice(norm).eval()
            before = model(x)
            assert fused(torch, linear, model, x) == count
            torch.testing.assert_close(model(x), before, atol=1e-5, rtol=1e-5)


def test_the_original_weight_can_still_be_read(torch, linear):
    model = torch.nn.Sequential(torch.nn.Linear(3, 2))
    weight = model[0].weight
    linear.pack_for_onednn(model, torch.float32)
    assert model[0].weight is weight
    assert model[0].weight.dtype == torch.float32


@pytest.mark.parametrize("per_channel", [False, True])
def test_int8_is_near_and_eight_bits_are_nearer_than_seven(torch, linear, per_channel):
    x = torch.randn(64, 7)
    apart = {}
    for reduce_range in (True, False):
        model = shared_and_nested(torch)
        with torch.no_grad():
            before = model(x)
            linear.quantize_linears(model, per_channel=per_channel, reduce_range=reduce_range)
            apart[reduce_range] = float((model(x) - before).abs().mean())
    assert 0 < apart[True] < 0.1
    if has_vnni(detect().instruction_sets):  # where sums of eight bits do not saturate
        assert 0 < apart[False] < apart[True]


def test_a_scale_a_channel_keeps_small_channels(torch, linear):
    """One large row must not cost the others their bits."""
    layer = torch.nn.Linear(8, 2, bias=False)
    with torch.no_grad():
        layer.weight[0] = 100.0
        layer.weight[1] = torch.linspace(-0.01, 0.01, 8)
        x = torch.randn(16, 8)
        small = layer(x)[:, 1]
        apart = {}
        for per_channel in (False, True):
            model = torch.nn.Sequential(layer)
            linear.quantize_linears(model, per_channel=per_channel, reduce_range=True)
            apart[per_channel] = float((model(x)[:, 1] - small).abs().max())
    assert apart[True] < 0.1 * apart[False]


def test_a_model_without_linear_is_a_fallback(torch, linear):
    with pytest.raises(TrialFailure, match=r"fallback: the model has no nn\.Linear"):
        linear.pack_for_onednn(torch.nn.Sequential(torch.nn.GELU()), torch.float32)
