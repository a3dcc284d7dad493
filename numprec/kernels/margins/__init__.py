"""Support vectors by sequential minimal optimisation."""
