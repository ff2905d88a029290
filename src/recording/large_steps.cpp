#include "recording/large_steps.h"

#include <sqlite3.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <new>

#include <sys/resource.h>

namespace attnscope::recording {

namespace {

constexpr sqlite3_int64 step_bytes = sqlite3_int64(256) << 10;
// At most so much at once: SQLite's own takes no 128 KiB. They end where a multiple of it does, for what Linux keeps as one has a place
// of its size.
constexpr sqlite3_int64 piece_bytes = sqlite3_int64(64) << 10;
const std::array<uint8_t, size_t(piece_bytes)> zeros{};

// SQLite's file; the system's lies behind it, aligned as SQLite aligns what it allocates.
struct File {
    sqlite3_file base;
    bool is_log;
    bool in_steps;
    bool is_copied_into;
    sqlite3_int64 end; // of a log: so long is it at least
    sqlite3_file* real() { return reinterpret_cast<sqlite3_file*>(this + 1); }
};
static_assert(sizeof(File) % 8 == 0);

// What SQLite would take; a program may have put another one in its place.
sqlite3_vfs* system_vfs() {
    return sqlite3_vfs_find(nullptr);
}

File& ours(sqlite3_file* f) {
    return *reinterpret_cast<File*>(f);
}
sqlite3_file* real(sqlite3_file* f) {
    return ours(f).real();
}

// Zeros from `from` on.
void lengthen(sqlite3_file* file, sqlite3_int64 from, sqlite3_int64 to) {
    while (from < to) {
        const sqlite3_int64 n = std::min(to - from, piece_bytes - from % piece_bytes);
        if (file->pMethods->xWrite(file, zeros.data(), static_cast<int>(n), from) != SQLITE_OK) return;
        from += n;
    }
}

int write_in_steps(sqlite3_file* f, const void* data, int n, sqlite3_int64 at) {
    File& file = ours(f);
    const sqlite3_int64 after = at + n;
    sqlite3_int64 size = 0;
    // Not before a new log's header, without which it is none.
    if (file.is_log && file.in_steps && at > 0 && after > file.end &&
        real(f)->pMethods->xFileSize(real(f), &size) == SQLITE_OK) {
        file.end = std::max(size, after);
        if (size < after) {
            lengthen(real(f), size, after + step_bytes);
            file.end = after + step_bytes;
        }
    }
    return real(f)->pMethods->xWrite(real(f), data, n, at);
}

int truncate(sqlite3_file* f, sqlite3_int64 size) {
    ours(f).end = 0;
    return real(f)->pMethods->xTruncate(real(f), size);
}

int file_control(sqlite3_file* f, int what, void* argument) {
    if (what == SQLITE_FCNTL_CKPT_START) ours(f).is_copied_into = true;
    if (what == SQLITE_FCNTL_CKPT_DONE) ours(f).is_copied_into = false;
    // From who copies a log into its file, and may alone: so long the file will be. Without a log zeros would be what it holds.
    if (what == SQLITE_FCNTL_SIZE_HINT && ours(f).is_copied_into && ours(f).in_steps) {
        sqlite3_int64 size = 0;
        if (real(f)->pMethods->xFileSize(real(f), &size) == SQLITE_OK)
            lengthen(real(f), size, *static_cast<const sqlite3_int64*>(argument));
    }
    return real(f)->pMethods->xFileControl(real(f), what, argument);
}

// Of version 2: no memory maps, which would show what is not there yet.
const sqlite3_io_methods methods = {
    2,
    [](sqlite3_file* f) { return real(f)->pMethods->xClose(real(f)); },
    [](sqlite3_file* f, void* to, int n, sqlite3_int64 at) { return real(f)->pMethods->xRead(real(f), to, n, at); },
    write_in_steps,
    truncate,
    [](sqlite3_file* f, int flags) { return real(f)->pMethods->xSync(real(f), flags); },
    [](sqlite3_file* f, sqlite3_int64* size) { return real(f)->pMethods->xFileSize(real(f), size); },
    [](sqlite3_file* f, int lock) { return real(f)->pMethods->xLock(real(f), lock); },
    [](sqlite3_file* f, int lock) { return real(f)->pMethods->xUnlock(real(f), lock); },
    [](sqlite3_file* f, int* out) { return real(f)->pMethods->xCheckReservedLock(real(f), out); },
    file_control,
    [](sqlite3_file* f) { return real(f)->pMethods->xSectorSize(real(f)); },
    [](sqlite3_file* f) { return real(f)->pMethods->xDeviceCharacteristics(real(f)); },
    [](sqlite3_file* f, int region, int size, int extend, void volatile** out) {
        return real(f)->pMethods->xShmMap(real(f), region, size, extend, out);
    },
    [](sqlite3_file* f, int offset, int n, int flags) {
        return real(f)->pMethods->xShmLock(real(f), offset, n, flags);
    },
    [](sqlite3_file* f) { real(f)->pMethods->xShmBarrier(real(f)); },
    [](sqlite3_file* f, int remove) { return real(f)->pMethods->xShmUnmap(real(f), remove); },
    nullptr,
    nullptr,
};

// Beyond such a limit a write may end the process: where there is one no byte is written that nobody asked for.
bool size_is_limited() {
    rlimit limit{};
    return getrlimit(RLIMIT_FSIZE, &limit) != 0 || limit.rlim_cur != RLIM_INFINITY;
}

int open(sqlite3_vfs* vfs, const char* name, sqlite3_file* f, int flags, int* out_flags) {
    sqlite3_vfs* const system = system_vfs();
    f->pMethods = nullptr;
    if (system->szOsFile > vfs->szOsFile - static_cast<int>(sizeof(File))) return SQLITE_CANTOPEN; // put there just now
    auto* const file = new (f) File{};
    file->real()->pMethods = nullptr;
    const int rc = system->xOpen(system, name, file->real(), flags, out_flags);
    if (!file->real()->pMethods) return rc; // it is not to be closed
    file->is_log = (flags & SQLITE_OPEN_WAL) != 0;
    file->in_steps = (flags & (SQLITE_OPEN_WAL | SQLITE_OPEN_MAIN_DB)) != 0 && !size_is_limited();
    file->base.pMethods = &methods;
    return rc;
}

int file_bytes() {
    return static_cast<int>(sizeof(File)) + system_vfs()->szOsFile;
}

sqlite3_vfs made_vfs() {
    sqlite3_vfs vfs = *system_vfs();
    vfs.iVersion = std::min(vfs.iVersion, 2);
    vfs.szOsFile = file_bytes();
    vfs.pNext = nullptr;
    vfs.zName = "attnscope-large-steps";
    vfs.xOpen = open;
    vfs.xDelete = [](sqlite3_vfs*, const char* name, int sync) {
        return system_vfs()->xDelete(system_vfs(), name, sync);
    };
    vfs.xAccess = [](sqlite3_vfs*, const char* name, int flags, int* out) {
        return system_vfs()->xAccess(system_vfs(), name, flags, out);
    };
    vfs.xFullPathname = [](sqlite3_vfs*, const char* name, int n, char* out) {
        return system_vfs()->xFullPathname(system_vfs(), name, n, out);
    };
    vfs.xRandomness = [](sqlite3_vfs*, int n, char* out) { return system_vfs()->xRandomness(system_vfs(), n, out); };
    vfs.xSleep = [](sqlite3_vfs*, int microseconds) { return system_vfs()->xSleep(system_vfs(), microseconds); };
    vfs.xCurrentTime = [](sqlite3_vfs*, double* out) { return system_vfs()->xCurrentTime(system_vfs(), out); };
    vfs.xGetLastError = [](sqlite3_vfs*, int n, char* out) {
        return system_vfs()->xGetLastError(system_vfs(), n, out);
    };
    vfs.xCurrentTimeInt64 = [](sqlite3_vfs*, sqlite3_int64* out) {
        return system_vfs()->xCurrentTimeInt64(system_vfs(), out);
    };
    return vfs;
}

} // namespace

const char* large_steps_vfs() {
    static std::mutex mutex;
    static sqlite3_vfs vfs{};
    const std::lock_guard lock(mutex);
    if (!system_vfs()) return nullptr;
    if (!vfs.zName) {
        vfs = made_vfs();
        if (sqlite3_vfs_register(&vfs, 0) != SQLITE_OK) vfs.zName = nullptr;
    }
    if (vfs.zName && vfs.szOsFile < file_bytes()) vfs.szOsFile = file_bytes();
    return vfs.zName;
}

} // namespace attnscope::recording
