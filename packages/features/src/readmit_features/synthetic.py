"""A synthetic sample with the schema of the real data: for machines without network, for tests and for demonstrations.

It is made in blocks, so that a sample of any size takes the memory of one block. Vocabularies are the schema's;
marginals and missingness follow what was measured in the UCI data set (doi 10.24432/C5230J); the risk structure is
plausible, and made up. Never a substitute for data: everything derived from it is marked `synthetic`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np

from readmit_contracts.encounter import (
    AGE_BANDS,
    BY_KEY,
    COLUMNS,
    DOSES,
    DRUG_KEYS,
    NOT_READMITTABLE,
    PAYERS,
    SPECIALTIES,
)
from readmit_features.drawn import Block, Drawn, Flags, Numbers, Places

DEFAULT_ROWS = 30_000
#: Synthetic encounters are numbered from here, far above any real number, so that rows of a sample are known for what
#: they are in whatever file they come back.
FIRST_SYNTHETIC_ID = 9_000_000_000_000_000

_BLOCK_ROWS = 100_000
_ENCOUNTER_STEP, _PATIENT_STEP = 8_000, 5_000  # below this much above the identifier before
_BLOCK_IDS = _BLOCK_ROWS * _ENCOUNTER_STEP
#: More have no identifiers below 2**53, where numbers stop being exact in JSON.
MAX_ROWS = (2**53 - FIRST_SYNTHETIC_ID) // _BLOCK_IDS * _BLOCK_ROWS

Shares = Mapping[str, float] | Mapping[int, float]

_POSITIVE_SHARE = 0.112

# Weights are shares in percent (or counts in hundreds: they are normalised).
_ENCOUNTERS_PER_PATIENT = {1: 76.5, 2: 14.6, 3: 4.7, 4: 2.0, 5: 1.0, 6: 0.5, 7: 0.3, 8: 0.2, 12: 0.1, 20: 0.05}
_GENDERS = {"Female": 53.76, "Male": 46.23, "Unknown/Invalid": 0.01}
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
# The long tail of diagnoses; leading zeros are lost, as in the real file.
_NUMBERS = tuple(str(number) for number in range(1, 1000))
_DIABETES = tuple(f"250.{detail:02d}" for detail in range(94))
_SUPPLEMENTARY = tuple(f"V{number:02d}" for number in range(1, 86))
_EXTERNAL = tuple(f"E{number}" for number in range(800, 1000))
_RARE = (*_NUMBERS, *_DIABETES, *_SUPPLEMENTARY, *_EXTERNAL)


def write_sample(destination: Path | TextIO, rows: int = DEFAULT_ROWS, seed: int = 7) -> None:
    """Write a CSV with the header of the real file and `rows` encounters; the same bytes for the same arguments."""
    if isinstance(destination, Path):
        with destination.open("wb") as file:
            for block in sample_blocks(rows, seed):
                file.write(block)
    else:
        for block in sample_blocks(rows, seed):
            destination.write(block.decode())


def sample_blocks(rows: int = DEFAULT_ROWS, seed: int = 7) -> Iterator[bytes]:
    """The bytes that `write_sample` writes, in pieces of about a megabyte: whole lines, the header first.

    Raises ValueError, with the first piece, if `rows` is below 1 or above `MAX_ROWS`.
    """
    header = (",".join(column.name for column in COLUMNS) + "\n").encode()
    for block in _blocks(rows, seed):
        if header:
            yield header
            header = b""
        yield from block.csv()
        del block  # or two would be held while the next is made


def sample_columns(rows: int, seed: int = 7) -> dict[str, list[str]]:
    """The cells of the sample, by the column's name in the file, in the file's order."""
    cells: dict[str, list[str]] = {column.name: [] for column in COLUMNS}
    for block in _blocks(rows, seed):
        for column in COLUMNS:
            cells[column.name] += block.texts(column.key)
    return cells


def _blocks(rows: int, seed: int) -> Iterator[Block]:
    """Patients, shares and the share of positives are of one block: no patient comes again in another."""
    if rows < 1:
        raise ValueError("a sample has at least one row")
    if rows > MAX_ROWS:
        raise ValueError(f"a sample has at most {MAX_ROWS} rows")
    for number, start in enumerate(range(0, rows, _BLOCK_ROWS)):
        rng = np.random.default_rng([seed, number] if number else seed)
        at = np.arange(start, min(start + _BLOCK_ROWS, rows))
        yield _block(rng, at, first_id=FIRST_SYNTHETIC_ID + number * _BLOCK_IDS, sample_rows=rows)


def _block(rng: np.random.Generator, at: Places, first_id: int, sample_rows: int) -> Block:
    """Rows number `at` of a sample."""
    rows = len(at)
    visits = _draw(rng, _ENCOUNTERS_PER_PATIENT, rows).numbers().astype(int)
    patient = rng.permutation(np.repeat(np.arange(rows), visits)[:rows])
    age = rng.normal(size=rows)
    identifiers = {
        "encounter_id": first_id + np.cumsum(rng.integers(1, _ENCOUNTER_STEP, rows)),
        "patient_nbr": (first_id + np.cumsum(rng.integers(1, _PATIENT_STEP, rows)))[patient],
    }
    made = {
        "race": _draw(rng, _RACES, rows).at(patient),
        "gender": _draw(rng, _GENDERS, rows).at(patient),
        "age": _by_rank(age[patient], _AGES),
    }
    frailty = rng.normal(size=rows)[patient]
    made |= _stay(rng, frailty, age[patient])
    made |= _codes(rng, early=at < 0.15 * sample_rows)
    made |= _medication(rng, rows)
    made["readmitted"] = _outcome(rng, made, frailty, age[patient])
    return Block(identifiers, made)


def _draw(rng: np.random.Generator, shares: Shares, size: int) -> Drawn:
    weights = np.array(list(shares.values()), dtype=float)
    return Drawn(rng.choice(len(weights), size=size, p=weights / weights.sum()), tuple(map(str, shares)))


def _draw_falling(rng: np.random.Generator, values: Sequence[str], size: int) -> Drawn:
    """Shares that fall like 1/rank."""
    total = sum(1 / rank for rank in range(1, len(values) + 1))
    shares = [1 / rank / total for rank in range(1, len(values) + 1)]
    return Drawn(rng.choice(len(values), size, p=shares), tuple(values))


def _by_rank(latent: Numbers, shares: Shares) -> Drawn:
    """Values with exactly these shares, in the order of a latent score: correlated columns, right marginals."""
    rank = np.empty(len(latent))
    rank[np.argsort(latent, kind="stable")] = (np.arange(len(latent)) + 0.5) / len(latent)
    edges = np.cumsum(np.array(list(shares.values()), dtype=float))
    return Drawn(np.searchsorted(edges[:-1] / edges[-1], rank), tuple(map(str, shares)))


def _counted(key: str, latent: Numbers | Places, least: int = 0) -> Drawn:
    """Whole numbers up to the largest that the schema calls usual."""
    most = BY_KEY[key].usual_high or 0
    return Drawn(np.clip(latent, least, most).astype(int), tuple(map(str, range(most + 1))))


def _stay(rng: np.random.Generator, frailty: Numbers, age: Numbers) -> dict[str, Drawn]:
    rows = len(frailty)

    def noise() -> Numbers:
        return rng.normal(size=rows)

    length = 0.3 * frailty + 0.15 * age + noise()
    return {
        "time_in_hospital": _by_rank(length, _STAY_DAYS),
        "discharge_disposition_id": _by_rank(0.4 * frailty + 0.6 * age + 0.3 * length + noise(), _DISPOSITIONS),
        "num_lab_procedures": _counted("num_lab_procedures", np.rint(43 + 6 * length + 18 * noise()), least=1),
        "num_procedures": _by_rank(0.2 * length + noise(), _PROCEDURES),
        "num_medications": _counted(
            "num_medications", np.rint(np.exp(2.66 + 0.22 * length + 0.36 * noise())), least=1
        ),
        "number_outpatient": _counted("number_outpatient", rng.poisson(np.exp(-2.7 + 0.4 * frailty + 1.4 * noise()))),
        "number_emergency": _counted("number_emergency", rng.poisson(np.exp(-3.1 + 0.7 * frailty + 1.2 * noise()))),
        "number_inpatient": _counted("number_inpatient", rng.poisson(np.exp(-1.1 + 0.7 * frailty + 0.75 * noise()))),
        "number_diagnoses": _by_rank(0.4 * age + 0.3 * frailty + noise(), _DIAGNOSES_ENTERED),
    }  # fmt: skip


def _codes(rng: np.random.Generator, early: Flags) -> dict[str, Drawn]:
    """`early` rows are of the first part of the study."""
    rows = len(early)
    payer = _draw_falling(rng, PAYERS, rows)
    # As in the real data, the first part of the study did not record who pays.
    unknown = rng.random(rows) < np.where(early, 1.0, 0.29)
    specialty = _draw_falling(rng, SPECIALTIES, rows)
    common = _draw(rng, {code: share for code, (share, _) in _PRIMARY.items()}, rows)
    return {
        "weight": _draw(rng, _WEIGHTS, rows),
        "admission_type_id": _draw(rng, _ADMISSION_TYPES, rows),
        "admission_source_id": _draw(rng, _ADMISSION_SOURCES, rows),
        "payer_code": payer.unless(unknown),
        "medical_specialty": specialty.unless(rng.random(rows) < 0.491),
        "diag_1": _or_rare(rng, common, common.among("")),
        "diag_2": _secondary(rng, rows, missing=0.0035),
        "diag_3": _secondary(rng, rows, missing=0.014),
        "max_glu_serum": _draw(rng, _GLUCOSE, rows),
        "a1cresult": _draw(rng, _A1C, rows),
    }


def _secondary(rng: np.random.Generator, rows: int, missing: float) -> Drawn:
    common = _draw_falling(rng, _SECONDARY, rows)
    code = _or_rare(rng, common, rng.random(rows) >= 0.5)
    return code.unless(rng.random(rows) < missing)


def _or_rare(rng: np.random.Generator, common: Drawn, rare: Flags) -> Drawn:
    """The common code, or one of the long tail where it is `rare`."""
    rows = len(rare)
    number = rng.integers(0, len(_NUMBERS), rows)
    supplementary = len(_NUMBERS) + len(_DIABETES) + rng.integers(0, len(_SUPPLEMENTARY), rows)
    external = len(_RARE) - len(_EXTERNAL) + rng.integers(0, len(_EXTERNAL), rows)
    diabetes = len(_NUMBERS) + rng.integers(0, len(_DIABETES), rows)
    which = rng.random(rows)
    tail = np.select([which < 0.86, which < 0.93, which < 0.96], [number, diabetes, supplementary], external)
    return Drawn(np.where(rare, len(common.values) + tail, common.places), (*common.values, *_RARE))


def _medication(rng: np.random.Generator, rows: int) -> dict[str, Drawn]:
    made: dict[str, Drawn] = {}
    prescribed, adjusted = np.zeros(rows, dtype=int), np.zeros(rows, dtype=bool)
    for drug in DRUG_KEYS:
        steady, up, down = _DOSE_SHARES.get(drug, (0.0, 0.0, 0.0))
        shares = dict(zip(DOSES, (100 - steady - up - down, steady, up, down), strict=True))
        made[drug] = _draw(rng, shares, rows)
        prescribed += ~made[drug].among("No")
        adjusted |= made[drug].among("Up", "Down")
    adjusted |= (prescribed > 1) & (rng.random(rows) < 0.75)
    made["change"] = Drawn(adjusted.astype(int), BY_KEY["change"].allowed)
    made["diabetesmed"] = Drawn((prescribed > 0).astype(int), BY_KEY["diabetesmed"].allowed)
    return made


def _outcome(rng: np.random.Generator, made: Mapping[str, Drawn], frailty: Numbers, age: Numbers) -> Drawn:
    inpatient = made["number_inpatient"].numbers()
    disposition, insulin, primary = (made[key] for key in ("discharge_disposition_id", "insulin", "diag_1"))
    logit = (
        0.40 * np.minimum(inpatient, 8)
        + 0.25 * np.minimum(made["number_emergency"].numbers(), 6)
        + np.array([_DISPOSITION_RISK.get(code, 0.0) for code in disposition.values])[disposition.places]
        + 0.05 * np.minimum(made["time_in_hospital"].numbers(), 9)
        + 0.06 * made["number_diagnoses"].numbers()
        + 0.08 * age
        + 0.10 * frailty
        + np.select([insulin.among(dose) for dose in ("Down", "Up", "Steady")], [0.25, 0.2, 0.05], 0.0)
        - 0.15 * ~made["metformin"].among("No")
        + np.array([_PRIMARY.get(code, (0.0, 0.0))[1] for code in primary.values])[primary.places]
    )
    possible = ~disposition.among(*map(str, NOT_READMITTABLE))
    early = rng.random(len(logit)) < _calibrated(logit, possible)
    later = possible & (rng.random(len(logit)) < 0.33 + 0.1 * np.minimum(inpatient, 4))
    return Drawn(np.select([early, later], [2, 1], 0), BY_KEY["readmitted"].allowed)


def _calibrated(logit: Numbers, possible: Flags) -> Numbers:
    """Probabilities with the share of positives of the real data, by bisection on the intercept."""
    low, high = -10.0, 5.0
    for _ in range(40):
        middle = (low + high) / 2
        probability: Numbers = possible / (1 + np.exp(-(logit + middle)))
        low, high = (middle, high) if probability.mean() < _POSITIVE_SHARE else (low, middle)
    return probability
