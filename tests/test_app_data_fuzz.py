"""A few hundred broken label files; ``tests/fuzz_labels.py`` breaks as many as one likes."""

from __future__ import annotations

from collections import Counter

import fuzz_labels


def test_broken_label_files_end_in_a_data_set_or_a_sentence(tmp_path):
    sets = fuzz_labels.Sets(tmp_path)
    endings = Counter()
    for seed in range(300):
        name, ending = sets.run(seed)
        endings[ending] += 1
        endings[name] += 1
    assert {"a sentence", "read", "read with problems", *fuzz_labels.FILES} == set(endings)
