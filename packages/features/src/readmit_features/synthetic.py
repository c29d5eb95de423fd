"""A synthetic sample with the schema of the real data: for machines without network, for tests and for demonstrations.

Marginals and missingness follow what was measured in the UCI data set (doi 10.24432/C5230J); the risk structure is
plausible, and made up. Never a substitute for data: everything derived from it is marked `synthetic`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from readmit_contracts.encounter import AGE_BANDS, COLUMNS, DRUG_KEYS, NOT_READMITTABLE, PAYERS, SPECIALTIES

DEFAULT_ROWS = 30_000
#: Synthetic encounters are numbered from here, far above any real number, so that rows of a sample are known for what
#: they are in whatever file they come back.
FIRST_SYNTHETIC_ID = 9_000_000_000_000_000

Shares = Mapping[str, float] | Mapping[int, float]
Cells = NDArray[np.generic]
Numbers = NDArray[np.float64]
Texts = NDArray[np.str_]

_POSITIVE_SHARE = 0.112

# Weights are shares in percent (or counts in hundreds: they are normalised).
_ENCOUNTERS_PER_PATIENT = {1: 76.5, 2: 14.6, 3: 4.7, 4: 2.0, 5: 1.0, 6: 0.5, 7: 0.3, 8: 0.2, 12: 0.1, 20: 0.05}
_RACES = {"Caucasian": 748, "AfricanAmerican": 189, "?": 22, "Hispanic": 20, "Other": 15, "Asian": 6}
_AGES = dict(zip(AGE_BANDS, (0.2, 0.7, 1.6, 3.7, 9.5, 17.0, 22.1, 25.6, 16.9, 2.7), strict=True))
_WEIGHTS = {"?": 968.6, "[75-100)": 13.1, "[50-75)": 8.8, "[100-125)": 6.1, "[125-150)": 1.4, "[25-50)": 1.0,
            "[0-25)": 0.5, "[150-175)": 0.3, "[175-200)": 0.1, ">200": 0.1}  # fmt: skip
_ADMISSION_TYPES = {"1": 53.1, "3": 18.5, "2": 18.2, "6": 5.2, "5": 4.7, "8": 0.3}
_ADMISSION_SOURCES = {"7": 56.5, "1": 29.0, "17": 6.7, "4": 3.1, "6": 2.2, "2": 1.1, "5": 0.8, "3": 0.2, "20": 0.2,
                      "9": 0.1}  # fmt: skip
# From the least to the most worrying place to go.
_DISPOSITIONS = {"1": 59.2, "25": 1.0, "18": 3.6, "6": 12.7, "4": 0.8, "7": 0.6, "3": 13.7, "23": 0.4, "2": 2.1,
                 "5": 1.2, "22": 2.0, "13": 0.4, "14": 0.4, "11": 1.6}  # fmt: skip
_DISPOSITION_RISK = {"1": 0.0, "25": 0.0, "18": 0.25, "6": 0.3, "4": 0.35, "7": 0.4, "3": 0.45, "23": -0.3, "2": 0.6,
                     "5": 0.9, "22": 1.25}  # fmt: skip
_STAY_DAYS = {1: 14.0, 2: 16.9, 3: 17.4, 4: 13.7, 5: 9.8, 6: 7.4, 7: 5.8, 8: 4.3, 9: 2.9, 10: 2.3, 11: 1.8, 12: 1.4,
              13: 1.2, 14: 1.0}  # fmt: skip
_PROCEDURES = {0: 45.8, 1: 20.4, 2: 12.5, 3: 9.3, 4: 4.1, 5: 3.0, 6: 4.9}
_DIAGNOSES_ENTERED = {1: 0.2, 2: 1.0, 3: 2.8, 4: 5.4, 5: 11.2, 6: 10.0, 7: 10.2, 8: 10.4, 9: 48.6, 16: 0.1}
_GLUCOSE = {"None": 94.7, "Norm": 2.6, ">200": 1.5, ">300": 1.2}
_A1C = {"None": 83.3, ">8": 8.1, "Norm": 4.9, ">7": 3.7}
_DOSE_SHARES = {  # percent of Steady, Up, Down; the rest is No; a drug that is not named here is never prescribed
    "metformin": (18.0, 1.0, 0.6), "repaglinide": (1.4, 0.1, 0.05), "nateglinide": (0.7, 0.02, 0.01),
    "chlorpropamide": (0.08, 0.01, 0.0), "glimepiride": (4.6, 0.3, 0.2), "glipizide": (11.2, 0.8, 0.6),
    "glyburide": (9.1, 0.8, 0.6), "tolbutamide": (0.02, 0.0, 0.0), "pioglitazone": (6.9, 0.2, 0.1),
    "rosiglitazone": (6.0, 0.2, 0.1), "acarbose": (0.3, 0.01, 0.0), "miglitol": (0.03, 0.0, 0.0),
    "tolazamide": (0.04, 0.0, 0.0), "insulin": (30.3, 11.1, 12.0), "glyburide_metformin": (0.7, 0.01, 0.01),
    "glipizide_metformin": (0.01, 0.0, 0.0),
}  # fmt: skip
# Share in percent and risk of the common primary diagnoses; "" stands for the long tail.
_PRIMARY = {
    "": (50.0, 0.0), "428": (6.7, 0.35), "414": (6.5, -0.15), "786": (3.9, -0.4), "410": (3.6, 0.1), "486": (3.4, -0.1),
    "427": (2.7, 0.0), "491": (2.2, 0.15), "715": (2.1, -0.3), "682": (2.0, 0.0), "434": (2.0, 0.35), "780": (2.0, 0.0),
    "996": (1.9, 0.35), "276": (1.8, 0.15), "38": (1.6, 0.1), "250.8": (1.6, 0.25), "599": (1.6, 0.0),
    "584": (1.5, 0.2), "V57": (1.2, 0.8), "250.6": (1.1, 0.3), "518": (1.1, 0.05), "820": (1.0, 0.45), "8": (0.5, 0.1),
}  # fmt: skip
_SECONDARY = ("276", "428", "250", "427", "401", "496", "599", "403", "414", "411", "250.02", "707", "585", "272")


def write_sample(destination: Path | TextIO, rows: int = DEFAULT_ROWS, seed: int = 7) -> None:
    """Write a CSV with the header of the real file and `rows` encounters; the same bytes for the same arguments."""
    columns = sample_columns(rows, seed)
    lines = (",".join(cells) for cells in zip(*columns.values(), strict=True))
    text = ",".join(columns) + "\n" + "".join(f"{line}\n" for line in lines)
    if isinstance(destination, Path):
        destination.write_text(text, encoding="utf-8", newline="\n")
    else:
        destination.write(text)


def sample_columns(rows: int, seed: int = 7) -> dict[str, list[str]]:
    """The cells of the sample, by the column's name in the file, in the file's order."""
    if rows < 1:
        raise ValueError("a sample has at least one row")
    rng = np.random.default_rng(seed)
    made = _identity(rng, rows)
    frailty, age = made.pop("frailty"), made.pop("age_rank")
    made |= _stay(rng, frailty.astype(float), age.astype(float))
    made |= _codes(rng, rows)
    made |= _medication(rng, rows)
    made["readmitted"] = _outcome(rng, made, frailty.astype(float), age.astype(float))
    return {column.name: made[column.key].astype(str).tolist() for column in COLUMNS}


def _draw(rng: np.random.Generator, shares: Shares, size: int) -> Cells:
    weights = np.array(list(shares.values()), dtype=float)
    return rng.choice(np.array(list(shares)), size=size, p=weights / weights.sum())


def _by_rank(latent: Numbers, shares: Shares) -> Cells:
    """Values with exactly these shares, in the order of a latent score: correlated columns, right marginals."""
    rank = np.empty(len(latent))
    rank[np.argsort(latent, kind="stable")] = (np.arange(len(latent)) + 0.5) / len(latent)
    edges = np.cumsum(np.array(list(shares.values()), dtype=float))
    return np.array(list(shares))[np.searchsorted(edges[:-1] / edges[-1], rank)]


def _identity(rng: np.random.Generator, rows: int) -> dict[str, Cells]:
    visits = _draw(rng, _ENCOUNTERS_PER_PATIENT, rows).astype(int)
    patient = rng.permutation(np.repeat(np.arange(rows), visits)[:rows])
    age = rng.normal(size=rows)
    return {
        "encounter_id": FIRST_SYNTHETIC_ID + np.cumsum(rng.integers(1, 8_000, rows)),
        "patient_nbr": (FIRST_SYNTHETIC_ID + np.cumsum(rng.integers(1, 5_000, rows)))[patient],
        "race": _draw(rng, _RACES, rows)[patient],
        "gender": _draw(rng, {"Female": 53.76, "Male": 46.23, "Unknown/Invalid": 0.01}, rows)[patient],
        "age": _by_rank(age[patient], _AGES),
        "age_rank": age[patient],
        "frailty": rng.normal(size=rows)[patient],
    }


def _stay(rng: np.random.Generator, frailty: Numbers, age: Numbers) -> dict[str, Cells]:
    rows = len(frailty)

    def noise() -> Numbers:
        return rng.normal(size=rows)

    length = 0.3 * frailty + 0.15 * age + noise()
    days = _by_rank(length, _STAY_DAYS)
    return {
        "discharge_disposition_id": _by_rank(0.4 * frailty + 0.6 * age + 0.3 * length + noise(), _DISPOSITIONS),
        "time_in_hospital": days,
        "num_lab_procedures": np.clip(np.rint(43 + 6 * length + 18 * noise()), 1, 132).astype(int),
        "num_procedures": _by_rank(0.2 * length + noise(), _PROCEDURES),
        "num_medications": np.clip(np.rint(np.exp(2.66 + 0.22 * length + 0.36 * noise())), 1, 81).astype(int),
        "number_outpatient": np.minimum(rng.poisson(np.exp(-2.7 + 0.4 * frailty + 1.4 * noise())), 42),
        "number_emergency": np.minimum(rng.poisson(np.exp(-3.1 + 0.7 * frailty + 1.2 * noise())), 76),
        "number_inpatient": np.minimum(rng.poisson(np.exp(-1.1 + 0.7 * frailty + 0.75 * noise())), 21),
        "number_diagnoses": _by_rank(0.4 * age + 0.3 * frailty + noise(), _DIAGNOSES_ENTERED),
    }


def _codes(rng: np.random.Generator, rows: int) -> dict[str, Cells]:
    payer = rng.choice(np.array(PAYERS), rows, p=_falling(PAYERS))
    # As in the real data, the first part of the study did not record who pays.
    unknown = rng.random(rows) < np.where(np.arange(rows) < 0.15 * rows, 1.0, 0.29)
    specialty = rng.choice(np.array(SPECIALTIES), rows, p=_falling(SPECIALTIES))
    common = _draw(rng, {code: share for code, (share, _) in _PRIMARY.items()}, rows).astype(str)
    return {
        "weight": _draw(rng, _WEIGHTS, rows),
        "admission_type_id": _draw(rng, _ADMISSION_TYPES, rows),
        "admission_source_id": _draw(rng, _ADMISSION_SOURCES, rows),
        "payer_code": np.where(unknown, "?", payer),
        "medical_specialty": np.where(rng.random(rows) < 0.491, "?", specialty),
        "diag_1": np.where(common == "", _rare_codes(rng, rows), common),
        "diag_2": _secondary(rng, rows, missing=0.0035),
        "diag_3": _secondary(rng, rows, missing=0.014),
        "max_glu_serum": _draw(rng, _GLUCOSE, rows),
        "a1cresult": _draw(rng, _A1C, rows),
    }


def _falling(values: Sequence[str]) -> list[float]:
    """Shares that fall like 1/rank."""
    total = sum(1 / rank for rank in range(1, len(values) + 1))
    return [1 / rank / total for rank in range(1, len(values) + 1)]


def _rare_codes(rng: np.random.Generator, rows: int) -> Texts:
    """The long tail of ICD-9 codes; leading zeros are lost, as in the real file."""
    number = np.char.mod("%d", rng.integers(1, 1000, rows))
    supplementary = np.char.mod("V%02d", rng.integers(1, 86, rows))
    external = np.char.mod("E%d", rng.integers(800, 1000, rows))
    diabetes = np.char.add("250.", np.char.mod("%02d", rng.integers(0, 94, rows)))
    which = rng.random(rows)
    return np.select([which < 0.86, which < 0.93, which < 0.96], [number, diabetes, supplementary], external)


def _secondary(rng: np.random.Generator, rows: int, missing: float) -> Texts:
    common = rng.choice(np.array(_SECONDARY), rows, p=_falling(_SECONDARY))
    code = np.where(rng.random(rows) < 0.5, common, _rare_codes(rng, rows))
    return np.where(rng.random(rows) < missing, "?", code)


def _medication(rng: np.random.Generator, rows: int) -> dict[str, Cells]:
    made: dict[str, Cells] = {}
    for drug in DRUG_KEYS:
        steady, up, down = _DOSE_SHARES.get(drug, (0.0, 0.0, 0.0))
        made[drug] = _draw(rng, {"No": 100 - steady - up - down, "Steady": steady, "Up": up, "Down": down}, rows)
    doses = np.stack(list(made.values()))
    prescribed = (doses != "No").sum(axis=0)
    adjusted = np.isin(doses, ("Up", "Down")).any(axis=0) | ((prescribed > 1) & (rng.random(rows) < 0.75))
    made["change"] = np.where(adjusted, "Ch", "No")
    made["diabetesmed"] = np.where(prescribed > 0, "Yes", "No")
    return made


def _outcome(rng: np.random.Generator, made: Mapping[str, Cells], frailty: Numbers, age: Numbers) -> Texts:
    disposition = made["discharge_disposition_id"].astype(int)
    inpatient = made["number_inpatient"].astype(float)
    logit = (
        0.40 * np.minimum(inpatient, 8)
        + 0.25 * np.minimum(made["number_emergency"].astype(float), 6)
        + np.array([_DISPOSITION_RISK.get(str(code), 0.0) for code in range(31)])[disposition]
        + 0.05 * np.minimum(made["time_in_hospital"].astype(float), 9)
        + 0.06 * made["number_diagnoses"].astype(float)
        + 0.08 * age
        + 0.10 * frailty
        + np.select([made["insulin"] == dose for dose in ("Down", "Up", "Steady")], [0.25, 0.2, 0.05], 0.0)
        - 0.15 * (made["metformin"] != "No")
        + np.array([_PRIMARY.get(code, (0.0, 0.0))[1] for code in made["diag_1"].astype(str)])
    )
    possible = ~np.isin(disposition, list(NOT_READMITTABLE))
    early = rng.random(len(logit)) < _calibrated(logit, possible)
    later = possible & (rng.random(len(logit)) < 0.33 + 0.1 * np.minimum(inpatient, 4))
    return np.select([early, later], ["<30", ">30"], "NO")


def _calibrated(logit: Numbers, possible: NDArray[np.bool_]) -> Numbers:
    """Probabilities with the share of positives of the real data, by bisection on the intercept."""
    low, high = -10.0, 5.0
    for _ in range(40):
        middle = (low + high) / 2
        probability: Numbers = possible / (1 + np.exp(-(logit + middle)))
        low, high = (middle, high) if probability.mean() < _POSITIVE_SHARE else (low, middle)
    return probability
