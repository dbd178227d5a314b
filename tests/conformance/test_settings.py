"""What workers are forked with, and what they say and hear."""

import os
from pathlib import Path

import pytest

from tests.conformance.programs import Run, conforms


@conforms(2, 312)
def test_the_advanced_serialization_carries_what_holds_itself(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            cluster.settings["serialization"] = "advanced"
            worker = cluster.fork()
            sent = {"set": {1, 2}, "bytes": b"x", "tuple": (1, (2,))}
            sent["self"] = sent
            @worker.on("message")
            def _(message, handle):
                say(message.pop("self") is message, message == {name: sent[name] for name in message})
                worker.disconnect()
            worker.send(sent)
            cluster.run()
        else:
            cluster.worker.on("message", lambda message, handle: cluster.worker.send(message))
            cluster.run()
    """)
    assert ended.said == [[True, True]]


@conforms(10)
def test_the_working_directory_of_workers(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            os.mkdir("elsewhere")
            cluster.fork().on("message", lambda message, handle: say("here", message == os.getcwd()))
            cluster.setup_primary(cwd="elsewhere", exec=os.path.abspath("program.py"))
            cluster.fork().on("message", lambda message, handle: say("there", os.path.basename(message)))
            cluster.run()
        else:
            cluster.worker.send(os.getcwd())
            cluster.worker.disconnect()
            cluster.run()
    """)
    assert sorted(ended.said) == [["here", True], ["there", "elsewhere"]]


@conforms(28)
def test_variables_for_one_worker(run: Run) -> None:
    ended = run(
        """
        if cluster.is_primary:
            worker = cluster.fork({"NEW": "new", "OLD": "changed", "GONE": None, "NUMBER": 7, "NODE_UNIQUE_ID": "99"})
            worker.on("message", lambda message, handle: say(message))
            cluster.run()
        else:
            values = [os.environ.get(name) for name in ("NEW", "OLD", "GONE", "NUMBER")]
            say("true", cluster.worker.send([*values, cluster.worker.id]))
            cluster.worker.disconnect()
            cluster.run()
        """,
        env={"OLD": "old", "GONE": "there"},
    )
    assert sorted(ended.said, key=str) == [["true", True], [["new", "changed", None, "7", 1]]]


@conforms(29, 220)
def test_a_fifth_descriptor_that_is_a_stream_both_ways(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            cluster.setup_primary(stdio=["pipe", "pipe", "pipe", "ipc", "pipe"])
            worker = cluster.fork()
            async def main():
                extra = worker.process.stdio[4]
                extra.write(b"hello")
                say("echo", (await extra.read(5)).decode())
                say("stdout", (await worker.process.stdout.readline()).decode(), worker.process.stdio[3])
                worker.disconnect()
            worker.on("exit", lambda *how: say("exit", *how))
            cluster.run(main())
        else:
            with socket.socket(fileno=os.dup(4)) as extra:
                extra.setblocking(True)
                extra.sendall(extra.recv(5))
            print("printed", flush=True)
            cluster.run()
    """)
    assert ended.said == [["echo", "hello"], ["stdout", "printed\n", None], ["exit", 0, None]]


@conforms(38)
def test_messages_both_ways_reach_worker_and_cluster(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            worker = cluster.fork()
            worker.on("message", lambda message, handle: say("worker", message))
            @cluster.on("message")
            def _(w, message, handle):
                say("cluster", w is worker, message)
                worker.send("to worker") if message == "to primary" else worker.disconnect()
            cluster.run()
        else:
            @cluster.worker.on("message")
            def _(message, handle):
                say("in worker", message)
                cluster.worker.send("again")
            cluster.worker.send("to primary")
            cluster.run()
    """)
    assert [line for line in ended.said if line[0] != "in worker"] == [
        ["cluster", True, "to primary"],
        ["worker", "to primary"],
        ["cluster", True, "again"],
        ["worker", "again"],
    ]
    assert ended.of("in worker") == [["to worker"]]


@conforms(59)
def test_settings_take_the_arguments_of_the_moment(run: Run) -> None:
    ended = run("""
        sys.argv = [sys.argv[0], "one", "two"]
        cluster.setup_primary()
        say(cluster.settings["args"])
        cluster.on("setup", lambda settings: say("setup"))
        cluster.run(asyncio.sleep(0))
    """)
    assert ended.said == [[["one", "two"]], ["setup"]]


@conforms(60)
def test_settings_add_up(run: Run) -> None:
    ended = run(
        """
        say("before", cluster.settings)
        cluster.setup_primary()
        say("defaults", cluster.settings == dict(exec=sys.argv[0], args=["arg"], exec_argv=["-O"], silent=False))
        cluster.setup_primary(exec="overridden")
        say("exec", cluster.settings["exec"], cluster.settings["args"])
        cluster.setup_primary(args=["foo"])
        say("args", cluster.settings["exec"], cluster.settings["args"])
        cluster.setup_primary({"exec_argv": ["-B"], "other": 1}, silent=True)
        say("all", cluster.settings)
        cluster.setup_primary()
        say("kept", cluster.settings["other"])
        """,
        "arg",
        flags=["-O"],
    )
    assert ended.said == [
        ["before", {}],
        ["defaults", True],
        ["exec", "overridden", ["arg"]],
        ["args", "overridden", ["foo"]],
        ["all", {"exec": "overridden", "args": ["foo"], "exec_argv": ["-B"], "silent": True, "other": 1}],
        ["kept", 1],
    ]


@conforms(61, 62)
def test_every_call_tells_its_settings(run: Run) -> None:
    ended = run("""
        cluster.on("setup", lambda settings: say(settings["exec"], settings is cluster.settings))
        async def main():
            for name in ("a", "b", "c"):
                cluster.setup_primary(exec=name)
                await asyncio.sleep(0.01)
            cluster.setup_primary()
            say("not yet")
            await asyncio.sleep(0.01)
        cluster.run(main())
    """)
    assert ended.said == [["a", True], ["b", True], ["c", True], ["not yet"], ["c", True]]


@conforms(63)
def test_arguments_and_silence_for_forks(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            cluster.setup_primary(args=["custom argument"], silent=True)
            cluster.once("setup", lambda settings: say("setup", settings["exec"] == sys.argv[0]))
            worker = cluster.fork()
            worker.on("message", lambda message, handle: say("argument", message))
            async def main():
                say("printed", (await worker.process.stdout.readline()).decode())
            cluster.run(main())
        else:
            print("quietly", flush=True)
            cluster.worker.send(sys.argv[1])
            cluster.worker.disconnect()
            cluster.run()
    """)
    assert sorted(ended.said) == [["argument", "custom argument"], ["printed", "quietly\n"], ["setup", True]]


@conforms(68)
def test_a_worker_made_by_hand(run: Run) -> None:
    ended = run("""
        worker = cluster.Worker()
        say(worker.exited_after_disconnect, worker.state, worker.id, worker.process)
        worker = cluster.Worker(id=3, state="online", process=cluster)
        say(worker.exited_after_disconnect, worker.state, worker.id, worker.process is cluster)
    """)
    assert ended.said == [[None, "none", 0, None], [None, "online", 3, True]]


@conforms(73)
def test_what_reaches_the_process_reaches_the_worker(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            worker = cluster.fork()
            worker.send({"some": "message"})
            worker.on("message", lambda message, handle: worker.disconnect())
            cluster.run()
        else:
            heard = []
            def hear(who):
                def heard_it(message, handle):
                    heard.append(who)
                    say(who, message)
                    if len(heard) == 2:
                        cluster.process.emit("error", "an error")
                return heard_it
            cluster.process.on("message", hear("process"))
            cluster.worker.on("message", hear("worker"))
            cluster.worker.on("error", lambda error: say("error", error, cluster.worker.send("done")))
            cluster.run()
    """)
    assert sorted(ended.said[:2]) == [["process", {"some": "message"}], ["worker", {"some": "message"}]]
    assert ended.said[2:] == [["error", "an error", True]]


@conforms(77)
def test_a_message_sent_when_it_comes_online_is_heard(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            worker = cluster.fork()
            worker.on("online", lambda: worker.send("to worker"))
            worker.on("message", lambda message, handle: (say(message), worker.disconnect()))
            cluster.run()
        else:
            cluster.worker.on("message", lambda message, handle: cluster.worker.send(message + " and back"))
            cluster.run()
    """)
    assert ended.said == [["to worker and back"]]


@conforms(32)
def test_an_internal_message_with_an_answer_to_nothing_is_ignored(run: Run) -> None:
    ended = run("""
        if cluster.is_primary:
            worker = cluster.fork()
            worker.on("exit", lambda *how: say("exit", *how))
            worker.on("online", lambda: worker.send({"cmd": "NODE_CLUSTER", "ack": -1}, callback=sent))
            def sent(error):
                say("sent", error)
                worker.disconnect()
            cluster.run()
        else:
            cluster.worker.on("message", lambda *what: say("must not be heard"))
            cluster.run()
    """)
    assert ended.said == [["sent", None], ["exit", 0, None]]


@conforms(67)
def test_a_primary_decides_its_exit_code_when_it_fails(run: Run) -> None:
    ended = run(
        """
        if cluster.is_primary:
            def at_the_end(kind, error, trace):
                say("failed", str(error))
                os._exit(42)
            sys.excepthook = at_the_end
            async def main():
                worker = cluster.fork()
                online = asyncio.get_running_loop().create_future()
                worker.on("online", lambda: online.set_result(None))
                await online
                raise Exception("deliberate")
            cluster.run(main())
        else:
            cluster.run()
        """,
        code=42,
    )
    assert ended.said == [["failed", "deliberate"]]


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ("stdio=['pipe', 'pipe', 'pipe']", "ValueError"),
        ("stdio=['ipc', 'ipc']", "ValueError"),
        ("stdio='nonsense'", "ValueError"),
        ("exec=None", "TypeError"),
        ("args='text'", "TypeError"),
        ("serialization='xml'", "ValueError"),
        ("serialization='advanced', exec='worker.js'", "ValueError"),
        ("uid='root'", "TypeError"),
    ],
)
def test_a_setting_of_no_use_is_told_by_fork_and_uses_up_a_number(run: Run, settings: str, error: str) -> None:
    ended = run(f"""
        if cluster.is_primary:
            try:
                cluster.setup_primary({settings})
                cluster.fork()
            except Exception as error:
                say(type(error).__name__)
            cluster.settings = {{}}
            say(cluster.fork().id)
            cluster.disconnect()
        cluster.run()
    """)
    assert ended.said == [[error], [2]]


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be somebody else")
def test_a_worker_of_another_user_has_its_group_alone(run: Run, run_dir: Path) -> None:
    # What the worker is run by must be open to that user, and this Python need not be: a shell takes Node's place.
    (run_dir / "node").write_text("""#!/bin/sh\necho "[\\"who\\", \\"$(id -u) $(id -g) $(id -G)\\"]"\n""")
    (run_dir / "node").chmod(0o755)
    ended = run(
        """
        cluster.setup_primary(exec="worker.js", uid=65534, gid=65533)
        cluster.fork().on("exit", lambda *how: say("exit", *how))
        cluster.run()
        """,
        env={"PATH": f"{run_dir}{os.pathsep}{os.environ['PATH']}"},
    )
    assert ended.said == [["who", "65534 65533 65533"], ["exit", 0, None]]


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to be nobody")
def test_who_may_not_be_another_user_is_told_by_fork(run: Run) -> None:
    ended = run("""
        import clusterd.primary.programs  # while this user may read it
        os.setuid(65534)
        cluster.setup_primary(uid=0)
        try:
            cluster.fork()
        except PermissionError as error:
            say(error.errno)
        cluster.run()
    """)
    assert ended.said == [[1]]


def test_a_directory_that_is_not_there_is_an_event_and_no_exit(run: Run) -> None:
    ended = run("""
        cluster.setup_primary(cwd="/nonexistent/directory")
        worker = cluster.fork()
        worker.on("error", lambda error: say("error", type(error).__name__))
        worker.on("disconnect", lambda: say("disconnect", worker.is_dead(), worker.process.pid))
        worker.on("exit", lambda *how: say("exit"))
        cluster.run()
    """)
    assert ended.said == [["error", "FileNotFoundError"], ["disconnect", True, None]]
