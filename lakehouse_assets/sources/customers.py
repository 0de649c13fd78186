"""The section `customers` of a declaration: records of customers, and their contacts, bills and load profiles.

It says which columns mean what, which attributes a record has, and which of its columns are personal: those are kept in
bronze and silver alone. What landing needs of each file is a `Layout`. It reads no data.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Literal

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator, model_validator

from lakehouse_assets.sources.parts import Files, Part, TimeZone, Word

TABLES = ("customers", "contacts", "bills", "usage")
HOURS = tuple(f"h{hour:02d}" for hour in range(24))
PERSONAL = ("name", "address", "email", "phone")

# An attribute is a column of every table from bronze to the features, so it must not be named as one of theirs.
# fmt: off
RESERVED_NAMES = frozenset([
    "source", "file", "fingerprint", "row_number", "batch_id", "ingested_at", "ts_utc", "known_at", "known_until",
    "month", "rules", "landed_rows", "customer_id", "updated_at", "published_at", "signed_on", "left_on", "churned",
    "valid_from", "valid_to", "as_of", "tenure_months", "price", "price_change_3m", "consumption", "consumption_1m",
    "consumption_12m", "consumption_change", "amount", "bill_1m", "bill_shock", "supply_cost", "margin",
    "margin_last_12m", "margin_12m", "outage_hours", "outage_hours_3m", "contacts", "contacts_1m", "contacts_3m",
    "contacts_12m", "complaints", "complaints_3m", "response_days", "response_days_3m", "segment", "population",
    "model_version",
])
# fmt: on


class CustomerColumns(Part):
    """Columns of the records; `updated_at`: from when a record is valid, `published_at`: when it became known."""

    customer_id: Word
    updated_at: Word | None = None
    published_at: Word | None = None
    signed_on: Word | None = None
    left_on: Word | None = None


class Attribute(Part):
    """Something that is known of a customer and may be learned from."""

    column: Word
    type: Literal["number", "category", "flag"]


class Personal(Part):
    """A column that tells who somebody is, classified."""

    column: Word
    kind: Literal["name", "address", "email", "phone"]


class Label(Part):
    """A column that says whether the customer left; `yes` is its value for those who did."""

    column: Word
    yes: Word


class ContactColumns(Part):
    """Columns of the contacts; `complaint` is a flag, `response_days` is empty until there was an answer."""

    customer_id: Word
    ts: Word
    channel: Word | None = None
    topic: Word | None = None
    complaint: Word | None = None
    response_days: Word | None = None
    published_at: Word | None = None


class BillColumns(Part):
    """Columns of the bills, one a customer and month (any day of it); `price` is that of a unit of consumption."""

    customer_id: Word
    month: Word
    amount: Word
    consumption: Word | None = None
    price: Word | None = None
    supply_cost: Word | None = None
    outage_hours: Word | None = None
    published_at: Word | None = None


class UsageColumns(Part):
    """Columns of the load profiles: `day` is `working` or `off`; hour 7 stands in the column `hours` + 07."""

    customer_id: Word
    month: Word
    day: Word
    hours: str = "h"
    published_at: Word | None = None


class Contacts(Part):
    """Files of contacts."""

    files: Files
    columns: ContactColumns


class Bills(Part):
    """Files of bills."""

    files: Files
    columns: BillColumns


class Usage(Part):
    """Files of load profiles."""

    files: Files
    columns: UsageColumns


@dataclass(frozen=True)
class Layout:
    """How the files of one table are laid out, for landing.

    columns: the file's column of each raw column; None: the files do not have it.
    time: the raw column that says from when a row is valid; None: all are valid from `as_of`.
    monthly: whether the time is a month, whose row is known when it has ended.
    """

    table: str
    files: Files
    columns: Mapping[str, str | None]
    time: str | None
    time_zone: str
    start: date
    folder: Path | None = None
    as_of: datetime | None = None
    monthly: bool = False

    @property
    def raw_columns(self) -> list[str]:
        """Columns of a raw row as bronze stores them, all text."""
        return list(self.columns)


class Customers(Part):
    """Customers of a company. See `examples/telco.yaml`, and the simulator's declaration.

    Records are either dated (`columns.updated_at`), or a snapshot without dates, taken at `as_of`. `start` is the first
    month of history. Local times are in `time_zone`.
    """

    files: Files
    columns: CustomerColumns
    time_zone: TimeZone = "UTC"
    start: date | None = None
    as_of: date | None = None
    attributes: dict[str, Attribute] = Field(default_factory=dict)
    personal: dict[str, Personal] = Field(default_factory=dict)
    churned: Label | None = None
    contacts: Contacts | None = None
    bills: Bills | None = None
    usage: Usage | None = None

    _folder: Path | None = PrivateAttr(default=None)

    @field_validator("attributes", "personal")
    @classmethod
    def _names(cls, columns: dict[str, Attribute | Personal], info: ValidationInfo) -> dict:
        problems = []
        other = {} if info.field_name == "attributes" else info.data.get("attributes", {})
        learned = {attribute.column: name for name, attribute in other.items()}
        for name, column in columns.items():
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
                problems.append(f"{name}: must be a snake_case word, such as payment_method")
            elif name in RESERVED_NAMES:
                problems.append(f"{name}: the name is taken by a column of the tables; choose another")
            elif name in other:
                problems.append(f"{name}: is an attribute too; choose another name")
            if column.column in learned:
                problems.append(f"{name}.column: {column.column} is personal, so the attribute "
                                f"{learned[column.column]} must not be made of it")  # fmt: skip
        if problems:
            raise ValueError("\n".join(problems))
        return columns

    @model_validator(mode="after")
    def _dated_or_not(self) -> "Customers":
        dated, problems = self.columns.updated_at is not None, []
        if dated == (self.as_of is not None):
            problems.append("columns.updated_at: give this column, or as_of where the records are not dated")
        if dated and self.start is None:
            problems.append("start: is missing")
        if not dated:
            problems += [
                f"{name}: needs dated records, columns.updated_at"
                for name in ("contacts", "bills", "usage")
                if getattr(self, name) is not None
            ]
            if self.columns.published_at is not None:
                problems.append("columns.published_at: needs dated records, columns.updated_at")
        if self.churned is not None and self.columns.left_on is not None:
            problems.append("churned: columns.left_on says who left already; give one of them")
        if self.columns.left_on is not None and not dated:
            problems.append("columns.left_on: needs dated records, columns.updated_at; or give churned")
        if problems:
            raise ValueError("\n".join(problems))
        return self

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the bronze tables that the declared files fill."""
        return tuple(name for name in TABLES if name == "customers" or getattr(self, name) is not None)

    @property
    def first_month(self) -> date:
        """The first month of history."""
        first = self.start or self.as_of
        assert first is not None
        return first.replace(day=1)

    @property
    def snapshot(self) -> datetime | None:
        """When records without dates were taken (UTC); None where they are dated."""
        return None if self.as_of is None else datetime(self.as_of.year, self.as_of.month, self.as_of.day, tzinfo=UTC)

    def layout(self, table: str) -> Layout:
        """How the files of one of `tables` are laid out.

        Raises:
            LookupError: the declaration has no files of this table.
        """
        columns: dict[str, str | None]
        if table == "customers":
            columns = self.columns.model_dump()
            columns |= {name: attribute.column for name, attribute in self.attributes.items()}
            columns |= {name: personal.column for name, personal in self.personal.items()}
            if self.churned is not None:
                columns["churned"] = self.churned.column
            time = None if self.columns.updated_at is None else "updated_at"
            return self._layout(table, self.files, columns, time=time)
        part = getattr(self, table, None)
        if table not in TABLES or part is None:
            raise LookupError(f"no files of {table} are declared")
        columns = part.columns.model_dump()
        if table == "contacts":
            return self._layout(table, part.files, columns, time="ts")
        columns = {"period" if name == "month" else name: column for name, column in columns.items()}
        if table == "usage":
            prefix = columns.pop("hours")
            columns |= {hour: f"{prefix}{hour[1:]}" for hour in HOURS}
        return self._layout(table, part.files, columns, time="period", monthly=True)

    def _layout(
        self, table: str, files: Files, columns: Mapping[str, str | None], *, time: str | None, monthly: bool = False
    ) -> Layout:
        return Layout(
            table=table,
            files=files,
            columns=columns,
            time=time,
            time_zone=self.time_zone,
            start=self.first_month,
            folder=self._folder,
            as_of=self.snapshot,
            monthly=monthly,
        )
