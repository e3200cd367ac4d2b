"""Scikit-learn estimators: they can be run, and say by name what they cannot do."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from cutaway import zoo
from cutaway.core.errors import BadOption, BadShape, NotPossible

X, Y = load_iris(return_X_y=True)
NAMES = np.array(load_iris().target_names)


@pytest.mark.parametrize(
    "estimator",
    [RandomForestClassifier(10, random_state=0), make_pipeline(StandardScaler(), LogisticRegression())],
    ids=["forest", "pipeline"],
)
def test_a_classifier_gives_its_own_probabilities(estimator):
    estimator.fit(X, NAMES[Y])
    model = zoo.load(estimator)
    assert model.classes == ("setosa", "versicolor", "virginica")
    np.testing.assert_allclose(model.predict(X).numpy(), estimator.predict_proba(X), atol=1e-12)
    assert model.space.names == ("x0", "x1", "x2", "x3")


def test_a_regressor_gives_values():
    estimator = LinearRegression().fit(X, 2.0 * Y)
    model = zoo.load(estimator, columns=["a", "b", "c", "d"])
    assert model.scores == "values"
    assert model.classes is None
    np.testing.assert_allclose(model.run(X).output[:, 0].numpy(), estimator.predict(X), atol=1e-12)
    assert model.space.names == ("a", "b", "c", "d")


def test_a_classifier_without_probabilities_gives_its_decision_values():
    estimator = LinearSVC(random_state=0).fit(X, Y)
    model = zoo.load(estimator)
    assert (model.scores, model.classes) == ("values", ("0", "1", "2"))
    np.testing.assert_allclose(model.run(X).output.numpy(), estimator.decision_function(X), atol=1e-12)
    two = zoo.load(LinearSVC(random_state=0).fit(X[:100], Y[:100]))
    assert two.classes is None
    assert two.run(X).output.shape == (150, 1)


def test_columns_of_a_data_frame_keep_their_names():
    pandas = pytest.importorskip("pandas", reason="needs pandas")
    frame = pandas.DataFrame(X, columns=["sepal length", "sepal width", "petal length", "petal width"])
    estimator = LogisticRegression(max_iter=500).fit(frame, Y)
    model = zoo.load(estimator)
    assert model.space.names == tuple(frame.columns)
    np.testing.assert_allclose(model.predict(X).numpy(), estimator.predict_proba(frame), atol=1e-12)


def test_gradients_are_refused_by_name():
    model = zoo.load(RandomForestClassifier(3, random_state=0).fit(X, Y))
    with pytest.raises(NotPossible, match="RandomForestClassifier is a black box without gradients; .*occlusion"):
        model.gradient(X[:2], 0)


def test_fingerprints_tell_estimators_apart():
    first, again, other = (zoo.load(RandomForestRegressor(3, random_state=s).fit(X, Y)) for s in (0, 0, 1))
    assert first.fingerprint == again.fingerprint != other.fingerprint


def test_the_estimator_is_not_changed_and_neither_is_the_input():
    estimator = RandomForestClassifier(3, random_state=0).fit(X, Y)
    x, before = torch.from_numpy(X).clone(), zoo.load(estimator).fingerprint
    zoo.load(estimator).predict(x)
    assert torch.equal(x, torch.from_numpy(X))
    assert zoo.load(estimator).fingerprint == before


def test_what_is_not_fitted_or_does_not_fit_is_refused():
    with pytest.raises(BadOption, match="fitted scikit-learn estimator; this LinearRegression has not seen data"):
        zoo.load(LinearRegression())
    with pytest.raises(BadShape, match="expected 4 columns, as the estimator was fitted on; got 3"):
        zoo.load(LinearRegression().fit(X, Y), columns=["a", "b", "c"])
