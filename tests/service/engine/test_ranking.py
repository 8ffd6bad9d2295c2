from __future__ import annotations

import numpy as np

from service.engine.ranking import rank


def test_most_probable_first_and_ties_by_lower_index():
    ranking = rank(np.array([[0.1, 0.4, 0.1, 0.4]], np.float32), 3)
    assert ranking.class_ids.tolist() == [[1, 3, 0]]
    assert ranking.probabilities.tolist() == np.array([[0.4, 0.4, 0.1]], np.float32).tolist()


def test_more_than_there_are_keeps_all_and_nan_comes_last():
    ranking = rank(np.array([[np.nan, 0.2, 0.8]], np.float32), 9)
    assert ranking.class_ids.tolist() == [[2, 1, 0]]
