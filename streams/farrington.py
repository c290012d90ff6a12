"""How many texts are likely: Farrington's regression, as Noufaily and others improved it.

A. Noufaily, D. G. Enki, P. Farrington, P. Garthwaite, N. Andrews, A. Charlett: An improved algorithm for outbreak
detection in multiple surveillance systems, Statistics in Medicine 32 (2013) 1206-1222. Counts are regressed on a trend
and on levels of the season, as quasi-Poisson; what was unusual in the past weighs less, so that old surges do not hide
new ones; the newest past is left out, so that a surge does not become usual while it lasts; a count is held against the
negative binomial distribution of the expected mean and dispersion.

There the season is the year, in ten levels. Here it is the day and the week: a level for each hour and one for each
weekday.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from scipy import stats

from bertline.errors import UserError

UNUSUAL = 2.58  # Anscombe residuals above it weigh less; the paper's


@dataclass(frozen=True)
class Expected:
    """What a count is expected to be.

    Attributes:
        mean: of the count.
        dispersion: variance over mean, at least 1.
        error: standard error of the mean's logarithm.
    """

    mean: float
    dispersion: float
    error: float

    @property
    def variance(self) -> float:
        """Of a new count: by chance, and since the mean is itself an estimate."""
        return self.dispersion * self.mean + (self.mean * self.error) ** 2

    def chance(self, count: float) -> float:
        """How likely it is to see this many texts or more."""
        return tail(self.mean, self.variance, count)

    def upper(self, level: float) -> float:
        """The count that is exceeded with at most this chance."""
        return quantile(self.mean, self.variance, level)


def _distribution(mean: float, variance: float) -> object:
    if variance <= mean:
        return stats.poisson(mean)
    size = mean**2 / (variance - mean)
    return stats.nbinom(size, size / (size + mean))


def tail(mean: float, variance: float, count: float) -> float:
    """The chance of at least this count: Poisson, or negative binomial where the variance is larger than the mean."""
    return float(_distribution(mean, variance).sf(count - 1))


def quantile(mean: float, variance: float, level: float) -> float:
    """The least count whose exceedance has at most this chance."""
    return float(_distribution(mean, variance).isf(level))


def weights(residuals: np.ndarray) -> np.ndarray:
    """Weights that add up to the number of rows: those of large residuals fall with their square.

    Args:
        residuals: standardised, [rows].
    """
    large = residuals > UNUSUAL
    shares = np.where(large, 1 / np.where(large, residuals, 1) ** 2, 1.0)
    return shares * len(residuals) / shares.sum()


@dataclass(frozen=True)
class Fit:
    """A regression on the past.

    Attributes:
        coefficients: [columns].
        covariance: of them, [columns, columns], the dispersion in it.
        dispersion: at least 1.
        weights: of the rows, [rows].
    """

    coefficients: np.ndarray
    covariance: np.ndarray
    dispersion: float
    weights: np.ndarray

    def expected(self, row: np.ndarray, exposure: float = 1.0) -> Expected:
        """What is expected where the columns have these values.

        Args:
            row: [columns].
            exposure: as in `fit`.
        """
        mean = float(np.exp(row @ self.coefficients)) * exposure
        return Expected(mean, self.dispersion, float(np.sqrt(max(row @ self.covariance @ row, 0.0))))


def fit(counts: np.ndarray, design: np.ndarray, exposure: np.ndarray | None = None) -> Fit:
    """Regresses counts on columns, twice: the second time what was unusual weighs less.

    Args:
        counts: [rows].
        design: [rows, columns], the constant among them.
        exposure: what the counts are shares of, [rows], above 0; None for counts as such.

    Raises:
        UserError: statsmodels is not installed.
    """
    try:
        import statsmodels.api as sm
    except ImportError:
        raise UserError("alarms on a stream need statsmodels: pip install 'bertline[stream]'") from None
    offset = None if exposure is None else np.log(exposure)

    def regressed(shares: np.ndarray) -> tuple[object, float]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of weights that are no whole numbers
            model = sm.GLM(counts, design, sm.families.Poisson(), offset=offset, var_weights=shares)
            result = model.fit()
        return result, max(float(result.pearson_chi2 / max(result.df_resid, 1)), 1.0)

    result, dispersion = regressed(np.ones(len(counts)))
    means = result.fittedvalues
    leverage = np.minimum(means * ((design @ result.normalized_cov_params) * design).sum(1), 1 - 1e-9)
    residuals = 1.5 * (counts ** (2 / 3) * means ** (-1 / 6) - np.sqrt(means)) / np.sqrt(dispersion * (1 - leverage))
    shares = weights(residuals)
    result, dispersion = regressed(shares)
    return Fit(result.params, result.normalized_cov_params * dispersion, dispersion, shares)
