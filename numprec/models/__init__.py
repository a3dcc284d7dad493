"""The estimators, in scikit-learn's terms: about one screen each on top of the kernels."""
