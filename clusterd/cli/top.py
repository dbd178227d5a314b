"""``clusterd top``: a live screen of one service, with what an operator does about what is seen."""

from collections.abc import Callable
from typing import Any, ClassVar, Protocol

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.containers import Grid, Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import DataTable, Footer, Label, RichLog, Sparkline, Static

from clusterd.cli.choose import Document
from clusterd.cli.curves import COLUMNS, CURVES, KEPT, History, Place, cells
from clusterd.cli.follow import clock
from clusterd.cli.renew import stage_of, verdict
from clusterd.errors import ClusterdError
from clusterd.ops.escapes import harmless
from clusterd.ops.words import seconds, size

EVERY = 1.0
"""Seconds between two looks."""

LOG_LINES = 200
"""Lines of output that are shown of the selected worker."""


class Service(Protocol):
    """What the screen asks for: :class:`clusterd.client.Client` has it."""

    def status(self) -> Document: ...

    def logs(self, *, pool: str | None, slot: int | None, lines: int) -> Any: ...

    def stacks(self, worker: int) -> str: ...

    def scale(self, pool: str, *, by: int) -> Document: ...

    def restart(self, pool: str | None = None, *, worker: int | None = None) -> Document: ...

    def reload(self, pool: str | None = None) -> Document: ...

    def hold(self, pool: str, slot: int) -> Document: ...

    def release(self, pool: str, slot: int) -> Document: ...


class Page(ModalScreen[None]):
    """A long text, until a key is pressed."""

    BINDINGS: ClassVar[list[BindingType]] = [("escape,q,enter", "dismiss", "close")]

    def __init__(self, title: str, text: str) -> None:
        super().__init__()
        self._title = title
        self._text = text

    def compose(self) -> ComposeResult:
        with Vertical(id="page"):
            yield Label(Text(self._title), id="page-title")
            with VerticalScroll():
                yield Static(Text(self._text))
            yield Label("escape closes", classes="hint")


class Question(ModalScreen[bool]):
    """Is it to be done?"""

    BINDINGS: ClassVar[list[BindingType]] = [("y", "yes", "yes"), ("n,escape,q", "no", "no")]

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        with Vertical(id="question"):
            yield Label(Text(f"{self._text}? (y/n)"))

    def action_yes(self) -> None:
        _ = self.dismiss(True)

    def action_no(self) -> None:
        _ = self.dismiss(False)


class Top(App[None]):
    """The screen.

    Args:
        service: whom it asks; every call is made in a thread.
        every: seconds between two looks; 0: only when told, for tests.
    """

    CSS = """
    #head { height: auto; padding: 0 1; }
    #workers { height: 1fr; }
    #curves { grid-size: 4 2; grid-rows: 1 2; height: 4; padding: 0 1; grid-gutter: 0 2; }
    #log { height: 1fr; border-top: solid $primary; }
    #page, #question { background: $surface; border: round $primary; padding: 0 1; }
    #page { width: 90%; height: 90%; }
    #question { width: auto; height: auto; }
    Page, Question { align: center middle; }
    .hint { color: $text-muted; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        ("q", "quit", "quit"),
        ("s", "stacks", "stacks"),
        ("r", "restart", "restart"),
        ("R", "reload", "reload"),
        ("h", "hold", "hold/release"),
        ("plus", "scale(1)", "one more"),
        ("minus", "scale(-1)", "one fewer"),
    ]
    ENABLE_COMMAND_PALETTE = False

    def __init__(self, service: Service, every: float = EVERY) -> None:
        super().__init__()
        self._service = service
        self._every = every
        self._history = History()
        self._status: Document = {}
        self._places: list[Place] = []
        self._shown: list[str] = []

    def compose(self) -> ComposeResult:
        yield Static(id="head")
        yield DataTable(id="workers", cursor_type="row", zebra_stripes=False)
        with Grid(id="curves"):
            for name in CURVES:
                yield Label(name, id=f"label-{name}")
            for name in CURVES:
                yield Sparkline([0.0] * KEPT, id=f"curve-{name}")
        yield RichLog(id="log", wrap=False, max_lines=LOG_LINES, auto_scroll=True)
        with Horizontal():
            yield Footer()

    def on_mount(self) -> None:
        """The first look is now."""
        self._table.add_columns(*COLUMNS)
        self._table.focus()
        self.look()
        if self._every:
            self.set_interval(self._every, self.look)

    # -- looking -------------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Ask, in a thread; show, when the answer is there."""
        self.run_worker(self._ask, thread=True, exclusive=True, group="look", exit_on_error=False)

    def _ask(self) -> None:
        place = self.chosen()
        try:
            status = self._service.status()
            lines: list[Document] = []
            if place is not None:
                lines = list(self._service.logs(pool=place[0], slot=place[1], lines=LOG_LINES))
        except ClusterdError as error:
            self.call_from_thread(self._trouble, str(error))
            return
        self.call_from_thread(self._show, status, place, lines)

    def _trouble(self, message: str) -> None:
        self._head.update(Text(harmless(message), style="bold red"))

    def _show(self, status: Document, place: Place | None, lines: list[Document]) -> None:
        self._status = status
        service = status["service"]
        ready = "ready" if service.get("ready") else "not ready"
        reload = status.get("reload")
        listening = ", ".join(str(one.get("address")) for one in service.get("listeners", ()))
        self._head.update(
            Text.assemble(
                (harmless(str(service.get("name"))), "bold"),
                f": {service.get('state')}, ",
                (ready, "green" if service.get("ready") else "bold red"),
                f", up {seconds(float(service.get('uptime', 0)))}, pid {service.get('pid')}",
                f", listening on {harmless(listening)}" if listening else "",
                (f"\n{stage_of(reload)}, {reload['replaced']} of {reload['of']} ready", "yellow") if reload else "",
            )
        )
        self._fill()
        self._draw()
        if place is not None and place == self.chosen():
            self._tell(lines)

    def _fill(self) -> None:
        """The table: rows are changed in place, so that the cursor stays where it is."""
        found = [((pool["name"], slot["index"]), slot) for pool in self._status["pools"] for slot in pool["slots"]]
        table = self._table
        for place, slot in found:
            self._history.add(place, slot)
        places = [place for place, _ in found]
        rows = [cells(place[0], slot) for place, slot in found]
        if places == self._places:
            for number, row in enumerate(rows):
                for column, cell in enumerate(row):
                    table.update_cell_at((number, column), cell, update_width=True)  # type: ignore[arg-type]
            return
        before = self.chosen()
        self._places = places
        table.clear()
        for row in rows:
            table.add_row(*row)
        if before in places:
            table.move_cursor(row=places.index(before))

    def _draw(self) -> None:
        place = self.chosen()
        if place is None:
            return
        show: dict[str, Callable[[float], str]] = {
            "requests": "{:.1f}/s".format,
            "latency": lambda value: f"{value * 1000:.1f} ms",
            "memory": lambda value: size(int(value)),
            "restarts": lambda value: f"{value:.0f} in {KEPT} s",
        }
        for name in CURVES:
            data = self._history.of(place, name)
            now = sum(data) if name == "restarts" else data[-1]
            self.query_one(f"#curve-{name}", Sparkline).data = data
            self.query_one(f"#label-{name}", Label).update(f"{name} {show[name](now)}")

    def _tell(self, lines: list[Document]) -> None:
        texts = [
            f"{clock(str(line.get('time')))} {'!' if line.get('stream') == 'stderr' else '|'} "
            + harmless(str(line.get("text")))
            for line in lines
        ]
        if texts == self._shown:
            return
        self._shown = texts
        log = self.query_one("#log", RichLog)
        log.clear()
        for text in texts:
            log.write(Text(text))

    # -- choosing ------------------------------------------------------------------------------------------------

    @property
    def _table(self) -> "DataTable[Text]":
        return self.query_one("#workers", DataTable)

    @property
    def _head(self) -> Static:
        return self.query_one("#head", Static)

    def chosen(self) -> Place | None:
        """The slot that the cursor is on."""
        row = self._table.cursor_row
        return self._places[row] if 0 <= row < len(self._places) else None

    def chosen_slot(self) -> Document | None:
        """What was said of it at the last look."""
        place = self.chosen()
        found = [(pool["name"], slot) for pool in self._status.get("pools", ()) for slot in pool["slots"]]
        return next((slot for name, slot in found if (name, slot["index"]) == place), None)

    def chosen_worker(self) -> int | None:
        """The worker in it."""
        slot = self.chosen_slot()
        return int(slot["worker"]["id"]) if slot is not None and slot.get("worker") else None

    def on_data_table_row_highlighted(self) -> None:
        """The cursor has moved."""
        self._draw()
        self.look()

    # -- doing ---------------------------------------------------------------------------------------------------

    def do(self, what: str, action: Callable[[], str], *, page: bool = False) -> None:
        """Have an action done in a thread, and its outcome shown.

        Args:
            what: its name, for people.
            page: show the outcome on a page, for it is long.
        """

        def run() -> None:
            try:
                said = harmless(action())
            except ClusterdError as error:
                self.call_from_thread(self.notify, harmless(str(error)), title=what, severity="error", timeout=10)
                return
            if page:
                self.call_from_thread(self.push_screen, Page(what, said))
            else:
                self.call_from_thread(self.notify, said, title=what)
            self.call_from_thread(self.look)

        self.run_worker(run, thread=True, group="do", exit_on_error=False)

    def action_stacks(self) -> None:
        """Stacks of the selected worker."""
        worker = self.chosen_worker()
        if worker is not None:
            self.do(f"stacks of worker {worker}", lambda: self._service.stacks(worker), page=True)

    def action_restart(self) -> None:
        """A new worker with the same code in the selected slot."""
        worker = self.chosen_worker()
        if worker is None:
            return

        def restart() -> str:
            found = self._service.restart(worker=worker)
            return "replaced" if found["done"] else "the service ended meanwhile"

        self.ask(f"restart worker {worker}", lambda: self.do(f"restart of worker {worker}", restart))

    def action_hold(self) -> None:
        """The selected slot is drained and stays empty; if it is held, it is filled again."""
        place = self.chosen()
        slot = self.chosen_slot()
        if place is None or slot is None:
            return
        name = f"{place[0]}/{place[1]}"
        if slot.get("held"):

            def release() -> str:
                found = self._service.release(*place)
                return "no worker yet" if found["worker"] is None else f"worker {found['worker']} is ready"

            self.do(f"release of {name}", release)
            return

        def hold() -> str:
            self._service.hold(*place)
            return "empty until it is released"

        self.ask(f"drain {name} and hold it empty", lambda: self.do(f"hold of {name}", hold))

    def action_reload(self) -> None:
        """The next generation, and its verdict."""

        def reload() -> str:
            return "\n".join(verdict(self._service.reload()))

        self.ask("reload all pools", lambda: self.do("reload", reload, page=True))

    def ask(self, question: str, then: Callable[[], None]) -> None:
        """Have it done if the answer is yes."""

        def answered(yes: bool | None) -> None:
            if yes:
                then()

        _ = self.push_screen(Question(question), answered)

    def action_scale(self, by: int) -> None:
        """One more or fewer in the selected pool."""
        place = self.chosen()
        if place is not None:

            def scale() -> str:
                found = self._service.scale(place[0], by=by)
                return f"{found['pool']}: {found['wanted']} workers wanted, before {found['was']}"

            self.do(f"scale {place[0]} {by:+d}", scale)
