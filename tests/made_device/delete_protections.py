#!/usr/bin/env python3
"""Deletes each protection of capture/ in turn, and tells which tests fail then.

    tests/made_device/delete_protections.py SOURCES              run it: builds a copy (minutes), then runs the tests
        [--work DIR] [--only NAME...] [--cmake=ARG]... [--jobs N]
    tests/made_device/delete_protections.py SOURCES --check      only: is every protection still where this file says

All deletions are compiled into one copy of the sources, each behind a name in ATTNSCOPE_WITHOUT, so that they cost one
build. The copy's tests run once without any (they must pass), then once for each deletion. A deletion that no test notices is
printed as such and ends the run with 1; those known to be doubled by another protection are marked so here, with which.
"""

import argparse
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

SWITCH = """#pragma once
#include <cstdlib>
#include <cstring>
static inline bool without(const char* name) {
    static const char* const deleted = std::getenv("ATTNSCOPE_WITHOUT");
    return deleted && std::strcmp(deleted, name) == 0;
}
"""


@dataclass
class Protection:
    name: str
    file: str
    text: str  # as it stands, once in the file
    instead: str  # OFF stands for `without("name")`
    doubled: str = ""  # what else protects, where no test can tell


def protect(name, text, *, instead, doubled=""):
    return name, text, instead, doubled


def in_file(file, *protections):
    return [Protection(name, file, text, instead, doubled) for name, text, instead, doubled in protections]


PROTECTIONS = [
    *in_file(
        "src/capture/device/fetch.cpp",
        protect("fetch.guard", "    send();\n    if (guarding_ && own_", instead="    if (OFF) return;\n    send();\n    if (guarding_ && own_"),
        protect("fetch.guard_waits", "if (guarding_ && own_) {", instead="if (!OFF && guarding_ && own_) {"),
        protect("fetch.guard_waits_for_all", "all ? slots_[last_slot_].done.get()", instead="all && !OFF ? slots_[last_slot_].done.get()"),
        protect("fetch.start_waits_for_engine", "        ggml().backend_event_wait(stream, engine_done_.get());\n", instead="        if (!OFF) ggml().backend_event_wait(stream, engine_done_.get());\n"),
        protect("fetch.send_waits_for_engine", "    ggml().backend_event_wait(own_.get(), engine_done_.get());\n    send_behind", instead="    if (!OFF) ggml().backend_event_wait(own_.get(), engine_done_.get());\n    send_behind"),
        protect("fetch.wait_for_arrival", "if (asynchronous_) ggml().backend_event_synchronize(slots_[slot].done.get());", instead="if (asynchronous_ && !OFF) ggml().backend_event_synchronize(slots_[slot].done.get());"),
        protect("fetch.wait_sends", "if (slot == last_slot_) send();", instead="if (slot == last_slot_ && !OFF) send();"),
        protect("fetch.staging_drained", "    drain();\n    slot.staging.reset();", instead="    if (!OFF) drain();\n    slot.staging.reset();", doubled="no order of the tests' streams leaves a transfer of a batch that failed open for so long"),
        protect("fetch.pinned_drained", "    drain(); // nobody", instead="    if (!OFF) drain(); // nobody", doubled="no order of the tests' streams leaves a transfer of a batch that failed open for so long"),
        protect("fetch.end_drained", "if (prepared_) drain();", instead="if (prepared_ && !OFF) drain();", doubled="the back end of tests, unlike CUDA's, waits for its stream when it ends, in one of three runs in time"),
        protect("fetch.end_forgets_a_failed_batch", "    sending_.engine = nullptr; // a batch", instead="    if (!OFF) sending_.engine = nullptr; // a batch", doubled="a session ends before its engine; of an attached program test_attach notices it (AttachDeviceStates.AProgramGoesOnWhoseCaptureHasFailed)"),
        protect("fetch.synchronous_engine", "    if (!asynchronous_) {\n        ggml().backend_synchronize(engine);", instead="    if (!asynchronous_) {\n        if (!OFF) ggml().backend_synchronize(engine);"),
        protect("fetch.block_free_recorded", "        ggml().backend_event_record(may_overwrite_.get(), stream);\n        return true;", instead="        if (!OFF) ggml().backend_event_record(may_overwrite_.get(), stream);\n        return true;"),
        protect("fetch.sent_recorded", "    if (asynchronous_)\n        ggml().backend_event_record(may_overwrite_.get(), stream);\n", instead="    if (asynchronous_ && OFF) return true;\n    if (asynchronous_)\n        ggml().backend_event_record(may_overwrite_.get(), stream);\n"),
        protect("fetch.synchronous_arrival", "    else\n        ggml().backend_synchronize(stream);\n    return true;", instead="    else if (!OFF)\n        ggml().backend_synchronize(stream);\n    return true;"),
        protect("fetch.gather_runs", "        slot.gather.start(stream);", instead="        if (!OFF) slot.gather.start(stream);"),
    ),
    *in_file(
        "src/capture/device/read_back.cpp",
        protect("read_back.values", "if (!read_values(node, engine, cells, n_cells, values->second)) return false;", instead="if (!OFF && !read_values(node, engine, cells, n_cells, values->second)) return false;"),
        protect("read_back.keys", "    read_rows(engine, node.k_cache, cells, keys->second);", instead="    if (!OFF) read_rows(engine, node.k_cache, cells, keys->second);"),
        protect("read_back.waited_for", "    ggml().backend_synchronize(engine); // values", instead="    if (!OFF) ggml().backend_synchronize(engine); // values"),
        protect("read_back.elements_waited_for", "    ggml().backend_synchronize(engine);\n", instead="    if (!OFF) ggml().backend_synchronize(engine);\n"),
        protect("read_back.stream_by_stream", "const int64_t end_here = std::min({r.end, stream_end, c + cells_at_once});", instead="const int64_t end_here = std::min({r.end, OFF ? r.end : stream_end, c + cells_at_once});"),
        protect("read_back.of_its_stream", "lies.first + stream * lies.stream +", instead="lies.first + (OFF ? 0 : stream) * lies.stream +"),
        protect("read_back.cells_that_are_there", "    if (!fit(cells, n_cells)) return false;", instead="    if (!OFF && !fit(cells, n_cells)) return false;"),
    ),
    *in_file(
        "src/capture/graph_state.h",
        protect("state.mean_being_taken", "|| overwrites(taking.get());", instead="|| (!OFF && overwrites(taking.get()));"),
    ),
    *in_file(
        "src/capture/graph_tap.cpp",
        protect("tap.blocks_given_back_synchronised", "        ggml().backend_sched_synchronize(sched);\n        state.drain();", instead="        if (!OFF) ggml().backend_sched_synchronize(sched);\n        state.drain();"),
        protect("tap.blocks_given_back_drained", "        state.drain();\n    });", instead="        if (!OFF) state.drain();\n    });"),
        protect("tap.overwritten_cells", "!ours || state.overwrites_arriving();", instead="!ours || (!OFF && state.overwrites_arriving());"),
        protect("tap.foreign_graph_waits_for_all", "const bool all = !ours ||", instead="const bool all = (!ours && !OFF) ||"),
        protect("tap.overwritten_mean", "if (!ours || state.overwrites_mean_cells()) {", instead="if (!ours || (!OFF && state.overwrites_mean_cells())) {"),
        protect("tap.mean_settled", "        settle();\n        if (state.arriving) state.mean.wait", instead="        if (!OFF) settle();\n        if (state.arriving) state.mean.wait"),
        protect("tap.mean_waited_for", "if (state.arriving) state.mean.wait", instead="if (state.arriving && !OFF) state.mean.wait"),
        protect("tap.every_device_guarded", "        if (ggml_backend_t engine = backend_of(sched, fetch->device())) fetch->guard(engine, all);", instead="        if (OFF && fetch != state.fetches.front()) continue;\n        if (ggml_backend_t engine = backend_of(sched, fetch->device())) fetch->guard(engine, all);"),
        protect("tap.failed_decode_flushes", "if (!succeeded) return flush();", instead="if (!succeeded) return OFF ? void() : flush();"),
        protect("tap.settled_before_the_next", "    settle();\n    if (*state.inputs_keep) state.keep_visibility();", instead="    if (!OFF) settle();\n    if (*state.inputs_keep) state.keep_visibility();"),
        protect("tap.masks_kept_early", "if (!*state.inputs_keep) state.keep_visibility();", instead="if (!*state.inputs_keep && !OFF) state.keep_visibility();"),
        protect("tap.no_memory_is_an_error", "        fail(arriving->batch->frames.front().index,\n             ", instead="        if (!OFF) fail(arriving->batch->frames.front().index,\n             "),
        protect("tap.batch_before_known", "state.arriving ? state.arriving->batch.get() : nullptr;", instead="state.arriving && !OFF ? state.arriving->batch.get() : nullptr;"),
        protect("tap.batch_checked", "    collector_.check(batch);\n    }\n    find_sources", instead="    if (!OFF) collector_.check(batch);\n    }\n    find_sources"),
        protect("tap.slots_in_turn", "state.next_slot = (state.next_slot + 1) % Fetch::n_slots;", instead="state.next_slot = OFF ? 0 : (state.next_slot + 1) % Fetch::n_slots;"),
        protect("tap.host_blocks_do_not_wait", "arriving.waits = arriving.waits && !some_on_host;", instead="arriving.waits = arriving.waits && (OFF || !some_on_host);"),
        protect("tap.gathered_sources", "            gather->apply(arriving.sources);", instead="            if (!OFF) gather->apply(arriving.sources);"),
        protect("tap.after_decode_sends", "for (auto& fetch : state_->fetches) fetch->send();", instead="for (auto& fetch : state_->fetches)\n        if (!OFF) fetch->send();"),
        protect("tap.flush_completes", "void GraphTap::flush() {\n    complete();", instead="void GraphTap::flush() {\n    if (!OFF) complete();"),
        protect("tap.flush_settles", "    settle();\n    deliver_proven(0);\n}", instead="    if (!OFF) settle();\n    deliver_proven(0);\n}"),
        protect("tap.flush_delivers", "    deliver_proven(0);\n}", instead="    if (!OFF) deliver_proven(0);\n}"),
        protect("tap.order", "    while (!proving.empty() && (proving.size() > waiting", instead="    if (OFF && proving.size() > 1 && Collector::proven(*proving.back())) {\n        deliver(*proving.back());\n        proving.pop_back();\n    }\n    while (!proving.empty() && (proving.size() > waiting"),
        protect("tap.proven_before_delivered", "        Collector::wait_until_proven(*proving.front());", instead="        if (!OFF) Collector::wait_until_proven(*proving.front());"),
        protect("tap.settle_waits", "    state_->taking_done.get();", instead="    if (!OFF) state_->taking_done.get();"),
        protect("tap.complete_settles", "void GraphTap::complete() {\n    settle();", instead="void GraphTap::complete() {\n    if (!OFF) settle();"),
        protect("tap.proven_before_an_error", "        deliver_proven(0); // nothing is delivered after an error", instead="        if (!OFF) deliver_proven(0);"),
        protect("tap.ring_overwrites_proofs", "if (batch.overwrites) deliver_proven(0);", instead="if (batch.overwrites && !OFF) deliver_proven(0);"),
        protect("tap.host_layers_taken_at_once", "    if (std::any_of(arriving->sources.begin(), arriving->sources.end(), on_host)) {", instead="    if (!OFF && std::any_of(arriving->sources.begin(), arriving->sources.end(), on_host)) {"),
        protect("tap.host_layers_proven", "        collector_.prove(batch); // with", instead="        if (!OFF) collector_.prove(batch); // with"),
        protect("tap.proofs_bounded", "many ? most_batches_proving(state.fetches.size()) : most_proving", instead="OFF ? size_t(1000000) : many ? most_batches_proving(state.fetches.size()) : most_proving"),
    ),
    *in_file(
        "src/capture/graph_take.cpp",
        protect("take.waits_for_the_transfer", "            from.fetch->wait(arriving.slot);", instead="            if (!OFF) from.fetch->wait(arriving.slot);"),
    ),
    *in_file(
        "src/capture/device/placement.cpp",
        protect("placement.none_used_without_memory", "for (Block& none : blocks_) none.used = 0;", instead="for (Block& none : blocks_)\n                    if (!OFF) none.used = 0;"),
        protect("placement.results_kept", "        ggml().set_output(t);", instead="        if (!OFF) ggml().set_output(t);"),
    ),
    *in_file(
        "src/capture/mean/operations_mean.cpp",
        protect("mean.waits_for_the_block", "    if (ready) ggml().backend_event_wait", instead="    if (ready && !OFF) ggml().backend_event_wait"),
        protect("mean.waits_for_its_result", "    if (slot.done)\n        ggml().backend_event_synchronize", instead="    if (OFF) {\n    } else if (slot.done)\n        ggml().backend_event_synchronize"),
    ),
    *in_file(
        "src/capture/capture.cpp",
        protect("capture.failed_decode_ends", "    hook_.reset();\n    capture_.tap_->end_decode(succeeded);", instead="    hook_.reset();\n    capture_.tap_->end_decode(succeeded || OFF);"),
    ),
    *in_file(
        "src/engine/session_run.cpp",
        protect("session.flushed_at_the_end", "capture_ ? capture_->flush() : Result<void>()", instead="capture_ && !OFF ? capture_->flush() : Result<void>()"),
    ),
]

TESTS = ["test_made_device", "test_capture"]


def misplaced(sources):
    problems = []
    for p in PROTECTIONS:
        path = sources / p.file
        n = path.read_text().count(p.text) if path.exists() else 0
        if n != 1:
            problems.append(f"{p.name}: its text stands {n} times in {p.file}, not once: {p.text.strip()!r}")
        if p.text == p.instead or "OFF" not in p.instead:
            problems.append(f"{p.name} deletes nothing")
    return problems


def copy_with_deletions(sources, tree):
    for part in ("CMakeLists.txt", "cmake", "include", "src", "tests", "third_party", "scripts", "examples", "bench"):
        if (sources / part).is_dir():
            shutil.copytree(sources / part, tree / part, dirs_exist_ok=True)
        else:
            tree.mkdir(parents=True, exist_ok=True)
            shutil.copy(sources / part, tree / part)
    deps = sources / ".deps"
    if deps.exists() and not (tree / ".deps").exists():
        (tree / ".deps").symlink_to(deps.resolve())
    (tree / "src/base/without.h").write_text(SWITCH)
    for file in {p.file for p in PROTECTIONS}:
        path = tree / file
        text = path.read_text()
        edits = sorted(smallest_edit(text, p) for p in PROTECTIONS if p.file == file)
        for (_, end, _), (begin, _, _) in zip(edits, edits[1:]):
            assert end <= begin, f"{file}: two deletions touch the same words"
        for begin, end, new in reversed(edits):
            text = text[:begin] + new + text[end:]
        path.write_text('#include "base/without.h"\n' + text)


def smallest_edit(text, p):
    """(begin, end, new): what differs between the text and what stands there instead. Contexts may overlap, edits not."""
    begin = len(os.path.commonprefix([p.text, p.instead]))
    tail = len(os.path.commonprefix([p.text[begin:][::-1], p.instead[begin:][::-1]]))
    at = text.index(p.text)
    new = p.instead[begin : len(p.instead) - tail].replace("OFF", f'without("{p.name}")')
    return at + begin, at + len(p.text) - tail, new


def run_tests(build, name, timeout):
    failed, env = [], dict(os.environ)
    env.pop("ATTNSCOPE_WITHOUT", None)
    if name:
        env["ATTNSCOPE_WITHOUT"] = name
    for test in TESTS:
        try:
            r = subprocess.run([build / "bin" / test, "--gtest_brief=1"], env=env, capture_output=True, text=True,
                               timeout=timeout, errors="replace")
        except subprocess.TimeoutExpired as e:
            out = (e.stdout or b"").decode(errors="replace") if isinstance(e.stdout, bytes) else e.stdout or ""
            failed += re.findall(r"\[  FAILED  \] (?:[\w/]+\.)([\w/]+)", out) + [f"{test} hangs"]
            continue
        found = re.findall(r"\[  FAILED  \] (?:[\w/]+\.)([\w/]+)", r.stdout)
        failed += list(dict.fromkeys(found))
        if r.returncode != 0 and not found:
            failed.append(f"{test} ends with {r.returncode}")
        elif r.returncode < 0:
            failed.append(f"{test} dies of signal {-r.returncode}")
    return failed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", type=Path)
    parser.add_argument("--check", action="store_true", help="only look whether every protection is where it should be")
    parser.add_argument("--work", type=Path, default=Path("build/deletions"), help="the copy, its build inside")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME")
    parser.add_argument("--cmake", action="append", default=[], metavar="ARG", help="for the configuration: --cmake=-DNAME=VALUE")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--timeout", type=int, default=300, help="seconds for a test program")
    args = parser.parse_args()
    problems = misplaced(args.sources)
    if problems:
        sys.exit("\n".join(problems))
    if args.check:
        print(f"{len(PROTECTIONS)} protections, each where it should be")
        return
    unknown = set(args.only) - {p.name for p in PROTECTIONS}
    if unknown:
        sys.exit(f"no protection is called {', '.join(sorted(unknown))}")
    tree = args.work.resolve()
    build = tree / "build"  # where a compiler cache finds what it has of this tree
    copy_with_deletions(args.sources.resolve(), tree)
    # Its page is nobody's, and would want npm and all of web/.
    cmake = ["cmake", "-G", "Ninja", "-S", tree, "-B", build, "-DCMAKE_BUILD_TYPE=Release", "-DATTNSCOPE_NPM=OFF"]
    subprocess.run([*cmake, *args.cmake], check=True)
    subprocess.run(["ninja", "-C", build, *TESTS], check=True)
    if failed := run_tests(build, None, args.timeout):
        sys.exit(f"without any deletion these fail: {', '.join(failed)}")
    chosen = [p for p in PROTECTIONS if not args.only or p.name in args.only]
    unnoticed = 0
    print("| deleted | fails |\n|---|---|")
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        for p, failed in zip(chosen, pool.map(lambda p: run_tests(build, p.name, args.timeout), chosen)):
            what = ", ".join(failed[:2]) + (f" and {len(failed) - 2} more" if len(failed) > 2 else "")
            if not failed:
                what = f"no test can tell: {p.doubled}" if p.doubled else "NO TEST NOTICES"
                unnoticed += not p.doubled
            print(f"| `{p.name}` | {what} |", flush=True)
    sys.exit(1 if unnoticed else 0)


if __name__ == "__main__":
    main()
