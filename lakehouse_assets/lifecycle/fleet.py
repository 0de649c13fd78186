"""What is in force: two levels that change together, the fleet's champion in MLflow and each member's in Delta.

A model version holds the models of all members. `registry/<model>_series` has one row a member with the version in
force for it, `registry/<model>_series_history` one row a member and decision about it. The commit of the first is the
moment at which a change happens: it carries the members' rows and the fleet's champion. The history and MLflow's
aliases follow from it, and `repair` brings them up where a process was killed in between. Every change has a number;
by it each level says how far it is. An alias `champion` that somebody moved in MLflow itself is followed, too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import polars as pl

from lakehouse_assets.lake.table import Lake, Table
from lakehouse_assets.lake.table_asset import ContractClass
from lakehouse_assets.lifecycle.contracts import contract_of
from lakehouse_assets.lifecycle.names import Names, table_key
from lakehouse_assets.ml.definition import ALL, Columns, Kind, ModelDefinition
from lakehouse_assets.registry.tracking import CHAMPION, PREVIOUS, ChampionChanged, Registry, RegistryError

SINCE_CHANGE_TAG = "since_change"
"""Tag of a version: the change that was in force when it was compared with what was in force."""
SCOPE_TAG, PARTIAL = "scope", "partial"
"""Tag of a version: whether it was trained on the whole fleet, or on some of the members: a partial one.

A partial version comes into force for its members one by one. It never is the fleet's champion, which must have
something to say about everybody.
"""
ASKED_TAG = "asked"
"""Tag of a version: why it was trained, on whom."""

_UTC = pl.Datetime("us", "UTC")
_COLUMNS: Columns = {
    "version": (pl.Int64(), "Version in force for it: its champion."),
    "candidate": (pl.String(), "The champion's recipe."),
    "since": (_UTC, "When the champion came into force, on the clock of the run that decided."),
    "previous_version": (pl.Int64(), "The version in force before; null: there was none."),
    "pinned": (pl.Boolean(), "Whether a person holds it at its version; the gate then moves it no more."),
    "decision": (
        pl.String(),
        "The last decision about it: promoted, kept, rolled_back, pinned, unpinned, adopted, or retired (its version "
        "stays, but new ones are trained without it until it reports again).",
    ),
    "reason": (pl.String(), "The reason in one sentence."),
    "evidence": (pl.String(), "What the gate found about it, as JSON."),
    "decided_at": (_UTC, "When the last decision about it was made, on the clock of the run."),
    "change": (pl.Int64(), "Number of that decision, counted from 1 through the model's life."),
    "since_change": (pl.Int64(), "Number of the decision that put the champion in force."),
    "fleet_version": (pl.Int64(), "Champion of the whole fleet then: MLflow's alias; it serves members without a row."),
    "fleet_change": (pl.Int64(), "Number of the decision that put that one in force."),
}


class NoChampion(RegistryError):
    """Nothing is in force yet."""


class NothingToRollBack(RegistryError):
    """There is no earlier version to return to."""


class UnknownMember(RegistryError):
    """There is no such series or group."""


class Pinned(RegistryError):
    """A person holds it at its version."""


class NotPinned(RegistryError):
    """There is nothing to unpin."""


def series_contract(kind: Kind) -> ContractClass:
    """The contract of `registry/<model>_series`: one row a member."""
    return contract_of("Series", _columns(kind), (kind.member,), {})


def history_contract(kind: Kind) -> ContractClass:
    """The contract of `registry/<model>_series_history`: one row a member and decision about it."""
    return contract_of("SeriesHistory", _columns(kind), (kind.member, "change"), {})


def _columns(kind: Kind) -> Columns:
    everybody = (pl.String(), f"`{ALL}`: one model serves everybody.")
    return {kind.member: kind.prediction_columns.get(kind.member, everybody), **_COLUMNS}


@dataclass(frozen=True)
class Change:
    """What a change did: its number (None: nothing was to change) and how many members it concerned.

    champion: of the fleet, after the change. told: the members that it was about. moved: got another version; stayed:
    all others. pinned: all that a person holds. harmed: not pinned, and held back when the others moved.
    """

    number: int | None
    champion: int
    told: int = 0
    moved: int = 0
    stayed: int = 0
    pinned: int = 0
    harmed: int = 0


@dataclass(frozen=True)
class Assignment:
    """Which version serves whom: the fleet's champion those without a row. change: the last number; 0: no rows yet."""

    champion: int
    members: Mapping[str, int]
    change: int

    def version_of(self, member: str) -> int:
        """The version in force for a member."""
        return self.members.get(member, self.champion)

    def versions_of(self, column: str) -> pl.Expr:
        """The versions in force for a column of members."""
        return pl.col(column).replace_strict(dict(self.members), default=self.champion, return_dtype=pl.Int64)


class FleetRegistry:
    """Both levels of one model.

    Args:
        name: the registered model.
        store: MLflow.
        lake: the Delta tables.
    """

    def __init__(self, name: str, store: Registry, lake: Lake) -> None:
        self.name, self.store = name, store
        self.table: Table = lake.table(table_key(Names(name).series))
        self.history_table: Table = lake.table(table_key(Names(name).series_history))

    # ------------------------------------------------------------------ read

    def rows(self) -> pl.DataFrame:
        """The members' rows; without any, a frame without columns."""
        return self.table.scan().collect() if self.table.exists() else pl.DataFrame()

    def assignment(self) -> Assignment | None:
        """What is in force, after a repair where one is due; None: there is no champion yet."""
        self.repair()
        champion = self.store.get(self.name, CHAMPION)
        if champion is None:
            return None
        rows = self.rows()
        if rows.is_empty():
            return Assignment(champion.version, {}, 0)
        members = dict(rows.select(rows.columns[0], "version").iter_rows())
        return Assignment(champion.version, members, _last_change(rows))

    def before(self) -> Assignment | None:
        """What was in force for each member before what is now; None: nothing was."""
        previous = self.store.get(self.name, PREVIOUS)
        if previous is None:
            return None
        rows = self.rows()
        members = {} if rows.is_empty() else dict(rows.select(rows.columns[0], "previous_version").iter_rows())
        known = {member: version for member, version in members.items() if version is not None}
        return Assignment(previous.version, known, 0)

    def load(self, kind: Kind, assignment: Assignment | None, members: Sequence[str] | None = None) -> Any:
        """The models in force as one, by the kind's own way to compose them; None where nothing is in force.

        members: whom it is wanted for (default: all); only the versions that serve them, and the fleet's champion, are
        loaded.
        """
        if assignment is None:
            return None
        mine = assignment.members
        if members is not None:
            mine = {member: mine[member] for member in members if member in mine}
        versions = sorted({assignment.champion, *mine.values()})
        models = {version: self.store.load(self.name, version) for version in versions}
        return kind.compose(models, mine, assignment.champion)

    def members(self, kind: Kind) -> list[str]:
        """The members that have a row.

        Raises:
            NoChampion: nothing is in force yet.
        """
        return self._required(kind, datetime.now(UTC))[kind.member].to_list()

    def row(self, kind: Kind, member: str) -> dict[str, Any]:
        """A member's row.

        Raises:
            NoChampion: nothing is in force yet.
            UnknownMember: it is not there.
        """
        rows = self._required(kind, datetime.now(UTC))
        return self._chosen(kind.member, rows, [member]).row(0, named=True)

    def history(self, member: str | None = None) -> pl.DataFrame:
        """The decisions about all members or one, oldest first; without any, a frame without rows."""
        if not self.history_table.exists():
            return pl.DataFrame(schema={name: dtype for name, (dtype, _) in _COLUMNS.items()})
        rows = self.history_table.scan()
        key = rows.collect_schema().names()[0]
        if member is not None:
            rows = rows.filter(pl.col(key) == member)
        return rows.sort("change", key).collect()

    # ---------------------------------------------------------------- change

    def promote(
        self,
        kind: Kind,
        version: int,
        *,
        whole: bool,
        reason: str,
        now: datetime,
        series: pl.DataFrame | None = None,
        unscored: pl.DataFrame | None = None,
        since_change: int | None = None,
        run_id: str | None = None,
    ) -> Change:
        """Put a challenger in force as the gate decided.

        Args:
            kind: of the model.
            version: the challenger.
            whole: whether the gate promotes the fleet: then all members move but those that are pinned or harmed; else
                only those whom the gate promotes by themselves, and the fleet's champion stays. A partial challenger
                never moves the fleet; all its members are told, those too that stay where they are.
            reason: the gate's, for the fleet.
            now: when it was decided.
            series: the gate's finding about each member: the member, `promote`, `harmed`, `reason`, and its evidence.
            unscored: whom the backtest says nothing about: the member and the `reason`. Who has a row, and was left out
                of the challenger's training, is retired.
            since_change: the change that was in force when the challenger was compared; a member that another version
                came into force for since then is left alone.
            run_id: the Dagster run.

        Raises:
            UnknownVersion: there is no such version.
        """
        with self.store.store.lock:
            rows, key = self._enter(kind, now), kind.member
            champion = self.store.get(self.name, CHAMPION)
            before = champion.version if champion else None
            partial = self.is_partial(version)
            whole = whole and not partial
            if before == version or (not whole and (before is None or series is None)):
                return _unchanged(rows, before)
            last = 0 if rows.is_empty() else _last_change(rows)
            state = _no_rows(key) if rows.is_empty() else rows
            known = pl.DataFrame({key: self.store.load(self.name, version).series_ids}, schema={key: pl.String})
            about = (
                known.join(state.select(key, "pinned", "since_change", current="version"), on=key, how="left")
                .join(_findings(key, series), on=key, how="left")
                .with_columns(pl.col("pinned", "promote", "harmed").fill_null(False))
            )
            there = pl.col("current").eq_missing(version)
            changed = pl.col("since_change").fill_null(0) > (last if since_change is None else since_change)
            held = ~there & (pl.col("pinned") | changed | (pl.col("harmed") & whole))
            moves = ~held if whole else ~held & pl.col("promote")
            # Where the fleet moves, who stays has a row that says why; else only who moves is told.
            about = about if whole else about.filter(~there & (moves | partial))
            verdicts = about.select(
                key,
                "pinned",
                evidence=pl.col("evidence").fill_null("{}"),
                to=pl.when(moves).then(pl.lit(version, pl.Int64)),
                decision=pl.when(moves).then(pl.lit("promoted")).otherwise(pl.lit("kept")),
                reason=pl.when(held & pl.col("pinned"))
                .then(pl.format("kept: pinned to version {}", "current"))
                .when(held & changed)
                .then(pl.lit("kept: another version came into force for it while the challenger was trained"))
                .when(~moves | pl.col("promote"))
                .then(pl.coalesce("reason", pl.lit(reason)))
                .otherwise(pl.lit(reason)),
            )
            if partial:  # who has no row stays without; nobody is told twice, as by a run that is repeated
                told = ["decision", "reason", "evidence"]
                kept = verdicts.filter(pl.col("to").is_null()).join(state.select(key), on=key, how="semi")
                kept = kept.join(state, on=[key, *told], how="anti")
                verdicts = pl.concat([verdicts.drop_nulls("to"), kept])
            retired = _retired(key, state, known, unscored)
            if not verdicts["to"].count() and retired.is_empty() and not (partial and verdicts.height):
                return _unchanged(rows, before)
            verdicts = pl.concat([verdicts, retired.select(verdicts.columns)])
            fleet = version if whole or before is None else before
            return self._commit(key, rows, verdicts, fleet, now, run_id, before=before)

    def roll_back(self, kind: Kind, members: Sequence[str] | None, now: datetime) -> Change:
        """Put the version before in force again: for the fleet (None), or for some of its members.

        For the fleet, what its last change moved moves back, and the champion of MLflow with it; members that were
        held back then, or changed since, stay. To roll back twice is to come back.

        Raises:
            NoChampion: nothing is in force yet.
            NothingToRollBack: there is nothing to return to.
            UnknownMember: a member is not there.
            Pinned: all that is asked for is pinned.
        """
        with self.store.store.lock:
            rows, key = self._required(kind, now), kind.member
            champion: int = rows["fleet_version"][0]
            if members is None:
                previous = self.store.get(self.name, PREVIOUS)
                if previous is None:
                    raise NothingToRollBack(
                        f"{self.name} has no champion before version {champion}. To change it, train again: the gate "
                        f"decides between version {champion} and the new one."
                    )
                chosen, what = rows.filter(pl.col("since_change") == pl.col("fleet_change")), "the fleet"
                fleet = previous.version
            else:
                chosen, what, fleet = self._chosen(key, rows, members), say(members), champion
            free = chosen.filter(~pl.col("pinned") & pl.col("previous_version").is_not_null())
            if free.is_empty() and chosen["pinned"].any():
                raise Pinned(f"{what} is pinned; `lakehouse unpin {self.name}` what is to be rolled back first")
            if free.is_empty():
                raise NothingToRollBack(f"{what} of {self.name} has had no version but the one in force")
            verdicts = free.select(
                key,
                to="previous_version",
                pinned="pinned",
                decision=pl.lit("rolled_back"),
                reason=pl.format("rolled back from version {} by hand", "version"),
                evidence=pl.lit("{}"),
            )
            return self._commit(key, rows, verdicts, fleet, now)

    def pin(self, kind: Kind, members: Sequence[str] | None, now: datetime, version: int | None = None) -> Change:
        """Hold the fleet (None) or some members at the versions in force for them, or at another one.

        Of the fleet, a partial version holds the members that it knows.

        Raises:
            NoChampion: nothing is in force yet.
            UnknownVersion: there is no such version.
            UnknownMember: a member is not there, or the version does not know it.
        """
        with self.store.store.lock:
            rows, key = self._required(kind, now), kind.member
            chosen = self._chosen(key, rows, members)
            fleet = rows["fleet_version"][0]
            if version is not None:
                strange = sorted(set(chosen[key]) - set(self.store.load(self.name, version).series_ids))
                if strange and members is not None:
                    raise UnknownMember(f"version {version} of {self.name} was trained without {say(strange)}")
                chosen = chosen.filter(~pl.col(key).is_in(strange))
                fleet = version if members is None and not self.is_partial(version) else fleet
            to = pl.col("version") if version is None else pl.lit(version, pl.Int64)
            verdicts = chosen.select(
                key,
                to=to,
                pinned=pl.lit(True),
                decision=pl.lit("pinned"),
                reason=pl.format("pinned to version {} by hand", to),
                evidence=pl.lit("{}"),
            )
            return self._commit(key, rows, verdicts, fleet, now)

    def unpin(self, kind: Kind, members: Sequence[str] | None, now: datetime) -> Change:
        """Let the gate decide again about the fleet (None) or some members; their versions stay until it does.

        Raises:
            NoChampion: nothing is in force yet.
            NotPinned: nothing of it is pinned.
            UnknownMember: a member is not there.
        """
        with self.store.store.lock:
            rows, key = self._required(kind, now), kind.member
            chosen = self._chosen(key, rows, members).filter("pinned")
            if chosen.is_empty():
                raise NotPinned(f"{'nothing' if members is None else say(members)} of {self.name} is pinned")
            verdicts = chosen.select(
                key,
                to=pl.lit(None, pl.Int64),
                pinned=pl.lit(False),
                decision=pl.lit("unpinned"),
                reason=pl.lit("unpinned by hand: the gate decides again"),
                evidence=pl.lit("{}"),
            )
            return self._commit(key, rows, verdicts, rows["fleet_version"][0], now)

    def repair(self) -> bool:
        """Bring both levels to the last change; True if a process had been killed before they were, or an alias moved.

        The rows are the truth as long as MLflow has not followed their last change. Once it has, an alias `champion`
        that differs was moved by a person in MLflow: all members that are not pinned follow it. To a partial version
        its own members follow; the alias goes back.
        """
        if not self.table.exists():
            return self.store.repair(self.name)
        with self.store.store.lock:
            mended = self.store.repair(self.name)
            rows = self.rows()
            if rows.is_empty():
                return mended
            last, fleet = _last_change(rows), int(rows["fleet_version"][0])
            mended |= self._complete_history(rows)
            champion = self.store.get(self.name, CHAMPION)
            shown = champion.version if champion else None
            if self.store.change(self.name) != last:
                self.store.promote(self.name, fleet, shown, change=last)
                return True
            if shown is None or shown == fleet:
                return mended
            key = rows.columns[0]
            said = f"the alias champion was set to version {shown} in MLflow"
            concerned = rows
            if self.is_partial(shown):
                self.store.client.set_registered_model_alias(self.name, CHAMPION, str(fleet))
                concerned = rows.filter(pl.col(key).is_in(self.store.load(self.name, shown).series_ids))
            else:
                fleet = shown
            verdicts = concerned.select(
                key,
                "pinned",
                to=pl.when(~pl.col("pinned")).then(pl.lit(shown, pl.Int64)),
                decision=pl.when("pinned").then(pl.lit("kept")).otherwise(pl.lit("adopted")),
                reason=pl.when("pinned").then(pl.format("kept: pinned; {}", pl.lit(said))).otherwise(pl.lit(said)),
                evidence=pl.lit("{}"),
            )
            self._commit(key, rows, verdicts, fleet, datetime.now(UTC))
            return True

    def is_partial(self, version: int) -> bool:
        """Whether a version was trained on some of the members alone.

        Raises:
            UnknownVersion: there is no such version.
        """
        return self.store.version(self.name, version).tags.get(SCOPE_TAG) == PARTIAL

    # --------------------------------------------------------------- details

    def _enter(self, kind: Kind, now: datetime) -> pl.DataFrame:
        """The rows after a repair; where a champion has none yet (an older home), its members enter with it."""
        self.repair()
        rows, champion = self.rows(), self.store.get(self.name, CHAMPION)
        if champion is None or not rows.is_empty():
            return rows
        previous = self.store.get(self.name, PREVIOUS)
        members = self.store.load(self.name, champion.version).series_ids
        verdicts = pl.DataFrame({kind.member: members}, schema={kind.member: pl.String}).with_columns(
            to=pl.lit(champion.version, pl.Int64),
            pinned=pl.lit(False),
            decision=pl.lit("adopted"),
            reason=pl.lit(f"version {champion.version} is the fleet's champion"),
            evidence=pl.lit("{}"),
        )
        before = previous.version if previous else None
        self._commit(kind.member, rows, verdicts, champion.version, now, before=before)
        return self.rows()

    def _required(self, kind: Kind, now: datetime) -> pl.DataFrame:
        rows = self._enter(kind, now)
        if rows.is_empty():
            raise NoChampion(f"{self.name} has no champion: train it and let the gate decide.")
        return rows

    def _chosen(self, key: str, rows: pl.DataFrame, members: Sequence[str] | None) -> pl.DataFrame:
        if members is None:
            return rows
        chosen = rows.filter(pl.col(key).is_in(list(members)))
        if missing := sorted(set(members) - set(chosen[key])):
            raise UnknownMember(f"{self.name} has no series {say(missing)}; {_examples(rows[key])}")
        return chosen

    def _commit(
        self,
        key: str,
        rows: pl.DataFrame,
        verdicts: pl.DataFrame,
        fleet: int,
        now: datetime,
        run_id: str | None = None,
        before: int | None = None,
    ) -> Change:
        """Change both levels by verdicts: a member, `to` (null: stays), pinned, decision, reason, evidence.

        before: the version that served members that had no row until now.
        """
        number = 1 if rows.is_empty() else _last_change(rows) + 1
        changed = self._changed(key, rows, verdicts, fleet, now, number, before)
        champion = self.store.get(self.name, CHAMPION)
        self.store.version(self.name, fleet)
        # The lock keeps apart the processes of this machine; the expected version those of several.
        expected = self.table.version() if self.table.exists() else -1
        if expected >= 0 and _last_change(self.table.scan(expected).collect()) != number - 1:
            raise ChampionChanged(f"{self.name} was changed by another process meanwhile; repeat the command.")
        # With this commit the change has happened; what follows is made good by `repair` if this process dies.
        metadata = {"lakehouse.change": str(number)}
        self.table.overwrite(changed, run_id=run_id, metadata=metadata, expected_version=expected)
        self._complete_history(changed)
        self.store.promote(self.name, fleet, champion.version if champion else None, change=number)
        moved = changed.filter(pl.col("since_change") == number).height
        held = changed.filter((pl.col("change") == number) & (pl.col("decision") == "kept"))
        pinned = int(changed["pinned"].sum())
        return Change(
            number,
            champion=fleet,
            told=changed.filter(pl.col("change") == number).height,
            moved=moved,
            stayed=changed.height - moved,
            pinned=pinned,
            harmed=held.filter(~pl.col("pinned"), fleet_change=number).height,
        )

    def _changed(
        self,
        key: str,
        rows: pl.DataFrame,
        verdicts: pl.DataFrame,
        fleet: int,
        now: datetime,
        number: int,
        before: int | None,
    ) -> pl.DataFrame:
        recipes = {
            version: self.store.version(self.name, version).tags.get("candidate", "")
            for version in verdicts["to"].drop_nulls().unique()
        }
        same_fleet = not rows.is_empty() and rows["fleet_version"][0] == fleet
        fleet_change = rows["fleet_change"][0] if same_fleet else number
        rows = _no_rows(key) if rows.is_empty() else rows
        both = rows.join(verdicts, on=key, how="full", coalesce=True, suffix="_new")
        told = pl.col("decision_new").is_not_null()
        moves = told & pl.col("to").is_not_null() & pl.col("to").ne_missing(pl.col("version"))
        recipe = pl.col("to").replace_strict(list(recipes), list(recipes.values()), return_dtype=pl.String, default="")
        at, count = pl.lit(now, _UTC), pl.lit(number, pl.Int64)

        def new(name: str) -> pl.Expr:
            return pl.when(told).then(f"{name}_new").otherwise(name)

        served = pl.coalesce("version", pl.lit(before, pl.Int64))
        return (
            both.with_columns(
                version=pl.when(moves).then("to").otherwise("version"),
                candidate=pl.when(moves).then(recipe).otherwise("candidate"),
                since=pl.when(moves).then(at).otherwise("since"),
                previous_version=pl.when(moves).then(served).otherwise("previous_version"),
                pinned=new("pinned"),
                decision=new("decision"),
                reason=new("reason"),
                evidence=new("evidence").fill_null("{}"),
                decided_at=pl.when(told).then(at).otherwise("decided_at"),
                change=pl.when(told).then(count).otherwise("change"),
                since_change=pl.when(moves).then(count).otherwise("since_change"),
                fleet_version=pl.lit(fleet, pl.Int64),
                fleet_change=pl.lit(fleet_change, pl.Int64),
            )
            .filter(pl.col("version").is_not_null())  # held back before it ever had a version: the fleet's serves it
            .select(rows.columns)
            .sort(key)
        )

    def _complete_history(self, rows: pl.DataFrame) -> bool:
        """Append the last change to the history unless it is there."""
        last = _last_change(rows)
        if self.history_table.exists():
            seen = self.history_table.scan().select(pl.col("change").max()).collect().item()
            if seen is not None and seen >= last:
                return False
        self.history_table.append(rows.filter(pl.col("change") == last))
        return True


def members_of_group(definition: ModelDefinition, lake: Lake, group: str) -> list[str]:
    """The members of a group, as the latest month of the feature table has them.

    Raises:
        UnknownMember: the model has no groups, or not this one.
    """
    if definition.group is None or definition.kind.member not in definition.kind.keys:
        raise UnknownMember(f"{definition.name} has no groups that a version could be put in force for")
    rows = lake.table(definition.features).scan()
    latest = rows.select(pl.col("month").max()).collect().item()
    key, column, time = definition.kind.member, definition.group, definition.kind.time_column
    if column not in rows.collect_schema():
        raise UnknownMember(f"{definition.features} has no groups ({column})")
    found = (
        rows.filter(pl.col("month") == latest)
        .group_by(key)
        .agg(pl.col(column).sort_by(time).last())
        .filter(pl.col(column).is_not_null())
        .collect()
    )
    members = found.filter(pl.col(column) == group)[key].sort().to_list()
    if not members:
        raise UnknownMember(f"{definition.name} has no group {group!r}; {_examples(found[column].unique())}")
    return members


def summary(rows: pl.DataFrame) -> dict[str, Any]:
    """How many members each version serves, and how many are pinned: JSON-able."""
    if rows.is_empty():
        return {"by_version": {}, "pinned": 0}
    by_version = rows.group_by("version").len().sort("version").rows()
    return {"by_version": {str(version): count for version, count in by_version}, "pinned": int(rows["pinned"].sum())}


def _no_rows(key: str) -> pl.DataFrame:
    return pl.DataFrame(schema={key: pl.String(), **{name: dtype for name, (dtype, _) in _COLUMNS.items()}})


def _findings(key: str, series: pl.DataFrame | None) -> pl.DataFrame:
    """The gate's table as: member, promote, harmed, reason, evidence (the rest, as JSON)."""
    if series is None:
        schema = {key: pl.String, "promote": pl.Boolean, "harmed": pl.Boolean}
        return pl.DataFrame(schema={**schema, "reason": pl.String, "evidence": pl.String})
    numbers = [name for name in series.columns if name not in (key, "promote", "harmed", "reason")]
    evidence = pl.struct(numbers).struct.json_encode() if numbers else pl.lit("{}")
    return series.select(key, "promote", "harmed", "reason", evidence=evidence)


def _retired(key: str, rows: pl.DataFrame, known: pl.DataFrame, unscored: pl.DataFrame | None) -> pl.DataFrame:
    """Verdicts about the members that have a row but no part in a version any more, and were not told so before."""
    if unscored is None or unscored.is_empty():
        unscored = pl.DataFrame(schema={key: pl.String, "reason": pl.String})
    gone = rows.filter(pl.col("decision") != "retired").join(known, on=key, how="anti").select(key, "pinned")
    return gone.join(unscored.select(key, "reason"), on=key).with_columns(
        to=pl.lit(None, pl.Int64), decision=pl.lit("retired"), evidence=pl.lit("{}")
    )


def _unchanged(rows: pl.DataFrame, champion: int | None) -> Change:
    pinned = 0 if rows.is_empty() else int(rows["pinned"].sum())
    return Change(None, champion or 0, stayed=rows.height, pinned=pinned)


def _last_change(rows: pl.DataFrame) -> int:
    return int(rows["change"].max())  # type: ignore[arg-type]


def say(members: Sequence[str]) -> str:
    """Some members in a few words."""
    shown = ", ".join(repr(member) for member in list(members)[:5])
    return shown if len(members) <= 5 else f"{shown} and {len(members) - 5} more"


def _examples(known: pl.Series) -> str:
    shown = known.sort().to_list()
    return f"there are: {', '.join(map(str, shown[:10]))}{' ...' if len(shown) > 10 else ''}"
