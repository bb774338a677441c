"""Predictions in any database that SQLAlchemy has a dialect for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from ftdoctor.errors import NoPredictionsError, PredictionError
from ftdoctor.prediction.address import scrubbed, telling
from ftdoctor.prediction.delivering import TIME_LIMIT, Answer, SpoolingWriter, within
from ftdoctor.prediction.spool import Spool
from ftdoctor.prediction.stored import EXACT, KEYS, KINDS, OPTIONAL, from_json, from_record, to_record

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine, Table

    from ftdoctor.prediction.rows import PredictionRow
    from ftdoctor.prediction.spool import Batch

CONNECT_LIMIT = 5
"""Seconds for one connection, with the drivers that have an option for it."""
_CONNECT_OPTION = {
    "psycopg": "connect_timeout",
    "psycopg2": "connect_timeout",
    "pymysql": "connect_timeout",
    "mysqldb": "connect_timeout",
    "mysqlconnector": "connection_timeout",
    "pg8000": "timeout",
    "pysqlite": "timeout",
}


def database_writer(url: str, spool: str = "", *, time_limit: float = TIME_LIMIT) -> SpoolingWriter:
    """Return a writer to a database; nothing is asked of its server yet.

    Args:
        url: SQLAlchemy's.
        spool: folder of the queue.
        time_limit: seconds that one call may take.

    Raises:
        PredictionError: the URL is not valid, or SQLAlchemy or the driver is not installed.
    """
    receiver = Database(url)
    parts = receiver.url
    options = telling([(key, str(value)) for key, value in parts.query.items()])
    identity = f"{parts.get_backend_name()}://{parts.host}:{parts.port}/{parts.database}?{urlencode(options)}"
    return SpoolingWriter(receiver, Spool(spool, identity, parts.host or parts.get_backend_name()), time_limit)


class Database:
    """Inserts batches into the table `predictions`, each in one transaction; rows that are there already stay.

    Args:
        url: SQLAlchemy's; each call has a connection of its own, so that none is lost between two evaluations.
    """

    def __init__(self, url: str) -> None:
        self.url, self._engine = _engine(url)
        self.shown = _shown(self.url)
        self._table = _table()
        self._ready = False

    def __repr__(self) -> str:
        return f"Database({self.shown!r})"

    def send(self, batch: Batch, seconds: float, tries: int) -> Answer:
        """Insert a batch; see `Receiver`."""
        try:
            within(seconds, lambda: self._insert([to_record(from_json(body)) for body in batch.bodies]))
        except TimeoutError:
            return Answer("again", f"{self.shown} did not finish within {seconds:.0f} seconds.", "no answer")
        except PredictionError as error:
            return Answer("blocked", str(error), "table")
        except Exception as error:  # noqa: BLE001 drivers raise what they like, and the rows are safe on disk
            return self._answer(error, tries)
        return Answer("taken")

    def read(self) -> list[PredictionRow]:
        """Return all rows of the table.

        Raises:
            PredictionError: they cannot be read.
        """
        from sqlalchemy import inspect, select

        try:
            with self._engine.connect() as connection:
                if not inspect(connection).has_table(self._table.name):
                    raise PredictionError(f"{self.shown} has no table of predictions; give the database of the run.")
                self._check(connection)
                return [from_record(row._asdict()) for row in connection.execute(select(self._table))]
        except PredictionError:
            raise
        except Exception as error:  # noqa: BLE001 drivers raise what they like
            said = self.said(error)
        raise PredictionError(f"{self.shown} cannot be read ({said}).")

    def said(self, error: Exception) -> str:
        """Return the driver's own words: SQLAlchemy's repeat statement and parameters."""
        own = getattr(error, "orig", None) or error
        return scrubbed(
            f"{type(own).__name__}: {own}", [str(self.url.password or ""), *map(str, self.url.query.values())]
        )

    def close(self) -> None:
        """Let go of connections."""
        self._engine.dispose()

    def _answer(self, error: Exception, tries: int) -> Answer:
        from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, InterfaceError, OperationalError

        said = f"{self.shown} does not take rows ({self.said(error)})"
        if isinstance(error, IntegrityError) and not tries:
            # Another process may have inserted the same row in between: the second time it is seen to be there.
            return Answer("again", after=0.0)
        if isinstance(error, (DataError, IntegrityError)):
            return Answer("bad", f"{said}: the refused one is kept aside.", "refused")
        lost = isinstance(error, DBAPIError) and error.connection_invalidated
        if lost or isinstance(error, (OperationalError, InterfaceError)):
            return Answer("again", f"{said}; they wait on disk.", "no connection")
        return Answer("blocked", f"{said}; they wait on disk.", type(error).__name__)

    def _insert(self, records: list[dict[str, Any]]) -> None:
        from sqlalchemy import insert, select

        with self._engine.begin() as connection:
            if not self._ready:
                self._make_table(connection)
        with self._engine.begin() as connection:
            ids = [record["id"] for record in records]
            there = set(connection.scalars(select(self._table.c.id).where(self._table.c.id.in_(ids))))
            new = [record for record in records if record["id"] not in there]
            if new and self._engine.dialect.supports_multivalues_insert:
                # One statement: many go through psycopg's pipeline, which logs what it skips after an error.
                connection.execute(insert(self._table).values(new))
            elif new:
                connection.execute(insert(self._table), new)

    def _make_table(self, connection: Any) -> None:
        from sqlalchemy import inspect
        from sqlalchemy.exc import DBAPIError

        if not inspect(connection).has_table(self._table.name):
            try:
                with connection.begin_nested():
                    self._table.create(connection)
            except DBAPIError:
                # Another process has made it at the same moment; databases name this differently.
                if not inspect(connection).has_table(self._table.name):
                    raise
        self._check(connection)
        self._ready = True

    def _check(self, connection: Any) -> None:
        from sqlalchemy import inspect

        there = {column["name"] for column in inspect(connection).get_columns(self._table.name)}
        if lacking := [column.name for column in self._table.columns if column.name not in there]:
            raise PredictionError(
                f"The table predictions of {self.shown} has no column {lacking[0]}; it is another program's or another "
                "version's: give a database of its own."
            )


def read_database(url: str) -> list[PredictionRow]:
    """Return all rows of the table `predictions`.

    Raises:
        PredictionError: the URL is not valid, the database cannot be read, or holds no predictions.
    """
    database = Database(url)
    try:
        rows = database.read()
    finally:
        database.close()
    if not rows:
        raise NoPredictionsError(
            f"{database.shown} holds no predictions yet; wait for the first evaluation of the run."
        )
    return rows


def _engine(text: str) -> tuple[URL, Engine]:
    try:
        from sqlalchemy import create_engine, exc, make_url
        from sqlalchemy.pool import NullPool
    except ImportError as error:
        raise PredictionError("Databases need SQLAlchemy 2: pip install 'ftdoctor[database]'.") from error
    problem = ""
    try:
        url = make_url(text)
        dialect = url.get_dialect()
        option = _CONNECT_OPTION.get(dialect.driver)
        arguments = {option: CONNECT_LIMIT} if option and option not in url.query else {}
        engine = create_engine(url, poolclass=NullPool, connect_args=arguments, hide_parameters=True)
    except ImportError as error:
        problem = f"needs the driver {error.name or 'that it names'}, which is not installed"
    except exc.NoSuchModuleError:
        problem = "names a dialect or driver that SQLAlchemy does not know"
    except (exc.ArgumentError, ValueError, TypeError):
        problem = "is not valid: dialect+driver://user:password@host:port/database, special characters percent-encoded"
    if not problem and dialect.is_async:
        problem = f"names the asynchronous driver {dialect.driver}; name one that is not, as postgresql+psycopg"
    if problem:
        raise PredictionError(f"The URL of the {text.partition(':')[0]} database {problem}.")
    return url, engine


def _shown(url: URL) -> str:
    port = f":{url.port}" if url.port else ""
    return f"{url.get_backend_name()}://{url.host or ''}{port}/{url.database or ''}"


def _table() -> Table:
    from sqlalchemy import BigInteger, Column, Double, Index, MetaData, String, Table, Text

    text = Text().with_variant(Text(2**32 - 1), "mysql", "mariadb")
    kinds: dict[str, Any] = {"str": text, "int": BigInteger(), "float": Double()}
    columns: list[Any] = [
        Column(
            name,
            String(KEYS[name]) if name in KEYS else kinds[kind],
            primary_key=name == "id",
            nullable=name in OPTIONAL,
        )
        for name, kind in KINDS.items()
    ]
    index = Index("predictions_of_sample", "job", "step", "sample_index")
    return Table("predictions", MetaData(), *columns, Column(EXACT, text, nullable=True), index)
