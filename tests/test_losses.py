import numpy as np
import pytest
from scipy.special import log_softmax

from primeattn.losses import cross_entropy, mse
from primeattn.workspace import Workspace


def test_uniform_logits_cost_the_log_of_the_classes():
    loss, dlogits = cross_entropy(np.zeros((1, 4)), np.array([2]))
    assert loss == pytest.approx(np.log(4), abs=1e-15) and isinstance(loss, float)
    np.testing.assert_allclose(dlogits, [[0.25, 0.25, -0.75, 0.25]])


@pytest.mark.parametrize(("dtype", "tol"), [(np.float32, 1e-6), (np.float64, 1e-14)])
@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 1), (400, 200)])
def test_cross_entropy_against_scipy(rng, dtype, tol, shape):
    logits = (3 * rng.standard_normal((*shape, 11))).astype(dtype)
    labels = rng.integers(0, 11, shape)
    labels[rng.random(shape) < 0.3] = -100
    counted = labels != -100
    logp = log_softmax(logits.astype(np.float64), axis=-1)
    picked = np.take_along_axis(logp, np.where(counted, labels, 0)[..., None], -1)[..., 0]
    one_hot = np.arange(11) == labels[..., None]
    expected = np.where(counted[..., None], np.exp(logp) - one_hot, 0) / counted.sum()
    loss, dlogits = cross_entropy(logits, labels)
    assert dlogits.dtype == dtype and dlogits.shape == logits.shape
    assert loss == pytest.approx(-picked[counted].mean(), rel=tol)
    np.testing.assert_allclose(dlogits, expected, rtol=0, atol=tol / counted.sum())


def test_gradient_is_that_of_the_loss(rng):
    logits, labels = rng.standard_normal((4, 3)), np.array([0, 2, -1, 1])
    _, dlogits = cross_entropy(logits, labels, ignore=-1)
    for index in np.ndindex(logits.shape):
        e = np.zeros_like(logits)
        e[index] = 1e-5
        slope = (
            cross_entropy(logits + e, labels, ignore=-1)[0] - cross_entropy(logits - e, labels, ignore=-1)[0]
        ) / 2e-5
        assert slope == pytest.approx(dlogits[index], abs=1e-9)


OPTIONS = [(0.0, 1e-2), (0.1, 0.0), (0.3, 1e-4)]


@pytest.mark.parametrize("label_smoothing,z_loss", OPTIONS)
@pytest.mark.parametrize(("dtype", "tol"), [(np.float32, 2e-6), (np.float64, 1e-14)])
@pytest.mark.parametrize("shape", [(7,), (400, 200)])
def test_smoothing_and_z_loss_against_numpy(label_smoothing, z_loss, dtype, tol, shape, rng):
    logits = (3 * rng.standard_normal((*shape, 11)) - 2).astype(dtype)
    labels = rng.integers(0, 11, shape)
    labels[rng.random(shape) < 0.3] = -100
    z, counted = logits.astype(np.float64), labels != -100
    lse = np.log(np.exp(z).sum(-1))
    target = (1 - label_smoothing) * (np.arange(11) == labels[..., None]) + label_smoothing / 11
    losses = lse - (target * z).sum(-1) + z_loss * lse**2
    expected = (1 + 2 * z_loss * lse[..., None]) * np.exp(z - lse[..., None]) - target
    expected = np.where(counted[..., None], expected, 0) / counted.sum()
    loss, dlogits = cross_entropy(logits, labels, label_smoothing=label_smoothing, z_loss=z_loss)
    assert loss == pytest.approx(losses[counted].mean(), rel=tol)
    assert dlogits.dtype == dtype
    np.testing.assert_allclose(dlogits, expected, rtol=0, atol=tol / counted.sum())


@pytest.mark.parametrize("label_smoothing,z_loss", OPTIONS)
def test_gradient_of_smoothing_and_z_loss_is_that_of_the_loss(label_smoothing, z_loss, rng):
    logits, labels = rng.standard_normal((5, 19)), np.array([0, 2, -100, 18, 7])  # two groups and a tail
    options = {"label_smoothing": label_smoothing, "z_loss": z_loss}
    _, dlogits = cross_entropy(logits, labels, **options)
    for index in np.ndindex(logits.shape):
        e = np.zeros_like(logits)
        e[index] = 1e-5
        up, down = (cross_entropy(logits + sign * e, labels, **options)[0] for sign in (1, -1))
        assert (up - down) / 2e-5 == pytest.approx(dlogits[index], abs=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_options_at_zero_change_no_bit_even_where_logits_are_infinite(dtype, rng):
    """Without them, a class may be ruled out by a logit of -inf."""
    logits, labels = rng.standard_normal((50, 37)).astype(dtype), rng.integers(0, 36, 50)
    logits[:, 36] = -np.inf
    loss, dlogits = cross_entropy(logits, labels)
    assert np.isfinite(loss) and (dlogits[:, 36] == 0).all()
    again, dagain = cross_entropy(logits, labels, label_smoothing=0, z_loss=0)
    assert again == loss and np.array_equal(dagain, dlogits)
    _, drawn = cross_entropy(logits, labels, z_loss=1e-4)
    assert np.isfinite(drawn).all()


def test_ignored_rows_have_no_say_even_if_not_finite(rng):
    logits, labels = rng.standard_normal((4, 3)), np.array([0, 7, 1, 7])
    loss, dlogits = cross_entropy(logits, labels, ignore=7)
    alone, dalone = cross_entropy(logits[::2], labels[::2])
    assert loss == pytest.approx(alone)
    np.testing.assert_allclose(dlogits[::2], dalone)
    assert (dlogits[1::2] == 0).all()
    logits[1] = np.nan
    again, dagain = cross_entropy(logits, labels, ignore=7)
    assert again == loss and (dagain == dlogits).all()
    loss, dlogits = cross_entropy(logits, labels, ignore=7, label_smoothing=0.1, z_loss=0.1)
    assert np.isfinite(loss) and (dlogits[1::2] == 0).all()


def test_all_ignored_and_empty():
    loss, dlogits = cross_entropy(np.ones((2, 3)), np.full(2, -100))
    assert loss == 0 and (dlogits == 0).all()
    loss, dlogits = cross_entropy(np.ones((0, 3)), np.zeros(0, int))
    assert loss == 0 and dlogits.shape == (0, 3)


def test_huge_logits_stay_finite():
    loss, dlogits = cross_entropy(np.array([[1e4, -1e4, 0]], np.float32), np.array([1]))
    assert loss == 2e4 and dlogits.tolist() == [[1, -1, 0]]


def test_nan_is_not_hidden():
    loss, dlogits = cross_entropy(np.array([[np.nan, 0.0], [0.0, 0.0]]), np.array([0, 1]))
    assert np.isnan(loss) and np.isnan(dlogits[0]).all() and np.isfinite(dlogits[1]).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint64, np.int16])
def test_labels_of_any_integer_dtype(rng, dtype):
    logits, labels = rng.standard_normal((6, 256)), rng.integers(0, 100, 6)
    loss, dlogits = cross_entropy(logits, labels.astype(dtype))
    assert loss == cross_entropy(logits, labels)[0] and (dlogits == cross_entropy(logits, labels)[1]).all()


def test_inputs_are_left_alone_and_strides_do_not_matter(rng):
    logits = rng.standard_normal((6, 5))
    labels = rng.integers(0, 5, 6)
    copy = logits.copy()
    loss, dlogits = cross_entropy(logits, labels)
    assert (logits == copy).all()
    other, dother = cross_entropy(np.asfortranarray(logits), labels)
    assert other == loss and (dother == dlogits).all()


def test_workspace_holds_the_gradient(rng):
    logits, labels, ws = rng.standard_normal((6, 5)), rng.integers(0, 5, 6), Workspace()
    results = [cross_entropy(logits, labels, workspace=ws), mse(logits, -logits, workspace=ws)]
    expected = [cross_entropy(logits, labels), mse(logits, -logits)]
    for (loss, grad), (loss_e, grad_e) in zip(results, expected, strict=True):
        assert loss == loss_e and (grad == grad_e).all()
    ws.reset()
    assert cross_entropy(logits, labels, workspace=ws)[1] is results[0][1]


@pytest.mark.parametrize(
    ("logits", "labels", "error", "match"),
    [
        (
            np.zeros((2, 3), int),
            np.zeros(2, int),
            TypeError,
            "logits: expected a float32 or float64 array, got int64",
        ),
        ([[0.0]], np.zeros(1, int), TypeError, "logits: .* got list"),
        (np.zeros((2, 3)), np.zeros(2), TypeError, "labels: expected a numpy array of integers, got float64"),
        (np.zeros((2, 3)), np.zeros(2, bool), TypeError, "labels: .* got bool"),
        (np.zeros((2, 3)), [0, 1], TypeError, "labels: .* got list"),
        (np.zeros((2, 3)), np.zeros((2, 1), int), ValueError, r"labels: expected shape \(2,\), got \(2, 1\)"),
        (np.zeros((2, 3)), np.array([0, 3]), ValueError, r"expected \[0, 3\) or -100, got 0 to 3"),
        (np.zeros((2, 3)), np.array([-1, 0]), ValueError, "got -1 to 0"),
        (np.zeros((2, 0)), np.zeros(2, int), ValueError, r"expected shape \(..., classes\)"),
    ],
)
def test_cross_entropy_refuses(logits, labels, error, match):
    with pytest.raises(error, match=match):
        cross_entropy(logits, labels)


@pytest.mark.parametrize(
    ("option", "error", "match"),
    [
        ({"label_smoothing": 1.0}, ValueError, r"label_smoothing: expected a number in \[0, 1\), got 1.0"),
        ({"label_smoothing": -0.1}, ValueError, "label_smoothing: .* got -0.1"),
        ({"label_smoothing": True}, TypeError, "label_smoothing: expected a number, got True"),
        ({"z_loss": np.nan}, ValueError, r"z_loss: expected a number in \[0, inf\), got nan"),
        ({"z_loss": np.inf}, ValueError, "z_loss: .* got inf"),
        ({"z_loss": "1e-4"}, TypeError, "z_loss: expected a number, got '1e-4'"),
    ],
)
def test_cross_entropy_refuses_options(option, error, match):
    with pytest.raises(error, match=match):
        cross_entropy(np.zeros((2, 3)), np.zeros(2, int), **option)


def test_mse_value_and_gradient(rng):
    loss, dy = mse(np.array([[1.0, 2.0]]), np.array([[3.0, 2.0]]))
    assert loss == 2 and dy.tolist() == [[-2, 0]]
    y, target = rng.standard_normal((2, 50, 3)).astype(np.float32)
    loss, dy = mse(y, target)
    assert (
        loss == pytest.approx(np.mean((y.astype(float) - target) ** 2), rel=1e-6) and dy.dtype == np.float32
    )
    np.testing.assert_allclose(dy, 2 * (y - target) / 150, rtol=1e-6)
    assert mse(np.zeros(0), np.zeros(0))[0] == 0


def test_mse_sums_in_float64():
    y = np.full(300_000, 1e20, np.float32)
    assert mse(y, np.zeros_like(y))[0] == pytest.approx(1e40, rel=1e-6)


def test_mse_refuses():
    with pytest.raises(ValueError, match=r"target: expected shape \(3, 1\), got \(3,\)"):
        mse(np.zeros((3, 1)), np.zeros(3))
    with pytest.raises(TypeError, match="target: expected dtype float64, got float32"):
        mse(np.zeros(3), np.zeros(3, np.float32))
    with pytest.raises(TypeError, match="y: expected a float32 or float64 array, got int64"):
        mse(np.zeros(3, int), np.zeros(3))
    with pytest.raises(TypeError, match="workspace: expected a Workspace or None, got dict"):
        mse(np.zeros(3), np.zeros(3), workspace={})
