"""One researcher: invented hospitals, studies, baselines, comparison."""
