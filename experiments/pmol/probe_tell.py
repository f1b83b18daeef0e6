"""What a router's shares tell of a text: of its preference, of its topic, and whom they follow where the two differ.

Everything is by question, `P`, so that intervals are: an accuracy is the mean over the texts of a question.
"""

from collections.abc import Sequence

import numpy as np
from experiments.pmol.probe_setting import NAMES, Text
from experiments.pmol.probe_shares import Shares
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

FOLDS = 6


def reader() -> Pipeline:
    return make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=2000))


def told_apart(features_NF: np.ndarray, labels: Sequence[str], texts: Sequence[Text]) -> np.ndarray:
    """Whether logistic regression on other questions' texts tells the label, `[P]`."""
    fold = GroupKFold(FOLDS)
    groups = [text.question for text in texts]
    said = cross_val_predict(reader(), features_NF, list(labels), groups=groups, cv=fold)
    return by_question(said == np.array(labels), texts)


def loudest(shares: Shares) -> np.ndarray:
    """The group with the largest mass in each response, `[N]`; nothing is fitted."""
    said: np.ndarray = np.array(NAMES)[shares.mass(NAMES).argmax(1).numpy()]
    return said


def by_question(values_N: np.ndarray, texts: Sequence[Text]) -> np.ndarray:
    question_N = np.array([text.question for text in texts])
    return np.array([values_N[question_N == p].mean() for p in np.unique(question_N)])


def followed(said: np.ndarray, texts: Sequence[Text]) -> dict[str, np.ndarray]:
    """Of texts whose manner is not that of their topic's owner: how often each of the two is named, `[P]`."""
    swapped = np.array([text.owner != text.manner for text in texts])
    rest = [text for text, is_swapped in zip(texts, swapped, strict=True) if is_swapped]
    return {
        "preference": by_question(said[swapped] == np.array([text.manner for text in rest]), rest),
        "topic": by_question(said[swapped] == np.array([text.owner for text in rest]), rest),
    }


def read_as_learned(features_NF: np.ndarray, texts: Sequence[Text]) -> np.ndarray:
    """The preference that each text is read as, `[N]`, by regression on other questions' texts of its own topic."""
    said = np.empty(len(texts), dtype=object)
    agree = np.array([text.owner == text.manner for text in texts])
    question_N = np.array([text.question for text in texts])
    labels = np.array([text.manner for text in texts])
    for learn, read in GroupKFold(FOLDS).split(features_NF, groups=question_N):
        own = learn[agree[learn]]
        said[read] = reader().fit(features_NF[own], labels[own]).predict(features_NF[read])
    return said
