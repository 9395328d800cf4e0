"""The interface of a generator against what the estimator itself returns."""

import numpy as np
import pytest
import torch

from skood.density import VAE

ROWS = np.random.default_rng(0).normal(size=(24, 5)) * 10 + 100
IMAGES = np.random.default_rng(0).integers(256, size=(24, 2, 5, 4), dtype=np.uint8)
LABELS = np.array(["cat", "dog", "eel"])[np.arange(24) % 3]
CASES = {
    "rows": (ROWS, {}),
    "float32 rows": (ROWS.astype(np.float32), {}),
    "images": (IMAGES, {"likelihood": "gaussian"}),
    "flat images": (IMAGES.reshape(24, -1), {"image_shape": (2, 5, 4)}),
}


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_says_what_the_estimator_says(case, conditional):
    X, settings = CASES[case]
    vae = VAE(2, conditional=conditional, n_filters=(3,), max_steps=2, random_state=0, **settings)
    vae.fit(X, LABELS)
    model = vae.generator()
    assert (model.n_latent, model.conditional) == (2, conditional)
    assert model.item_shape == ((5,) if "rows" in case else (2, 5, 4))
    assert model.has_range == (vae.value_range_ is not None)
    source = model.open(vae._open(X, reset=False))
    with torch.no_grad():
        x = model.tensor(source.take(np.arange(24)))
        given = model.class_indices(LABELS, 24)
        assert (given is None) == (not conditional)
        given = None if given is None else torch.from_numpy(given)
        z, class_indices = model.encode(x, given)
        made = model.to_units_of_x(model.decode(z, class_indices))
        likely, likely_indices = model.encode(x)
    assert x.shape == (24, *model.item_shape)
    assert class_indices is given
    np.testing.assert_allclose(z, vae.transform(X, LABELS), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(likely, vae.transform(X), rtol=1e-5, atol=1e-6)
    assert (likely_indices is None) == (not conditional)
    assert made.dtype == (torch.float64 if X.dtype == np.float64 else torch.float32)
    assert made.shape == (24, *vae.input_shape_)
    np.testing.assert_allclose(made, vae.reconstruct(X, LABELS), rtol=1e-5, atol=1e-4)
    np.testing.assert_allclose(
        model.to_units_of_x(x).double(), X.astype(float), rtol=1e-5, atol=1e-4
    )
