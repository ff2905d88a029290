#include "fault_vfs.h"

#include <sqlite3.h>

#include <atomic>
#include <cstring>
#include <new>

namespace attnscope::test {

namespace {

std::atomic<int> count = 0;
std::atomic<int> fail_at = 0;
std::atomic<int> fail_code = SQLITE_OK;
std::atomic<bool> fail_forever = false;

sqlite3_vfs* real = nullptr;
sqlite3_vfs shim;
sqlite3_io_methods shim_methods;

// True when this operation is to fail.
bool due() {
    const int n = ++count;
    const int at = fail_at;
    return at > 0 && (n == at || (fail_forever && n > at));
}

struct File {
    sqlite3_file base;
};

sqlite3_file* inner(sqlite3_file* file) {
    return reinterpret_cast<sqlite3_file*>(reinterpret_cast<File*>(file) + 1);
}

const sqlite3_io_methods* methods(sqlite3_file* file) {
    return inner(file)->pMethods;
}

int shim_open(sqlite3_vfs*, sqlite3_filename name, sqlite3_file* file, int flags, int* out_flags) {
    file->pMethods = nullptr;
    if (due()) return SQLITE_CANTOPEN;
    const int rc = real->xOpen(real, name, inner(file), flags, out_flags);
    if (inner(file)->pMethods) file->pMethods = &shim_methods;
    return rc;
}

int shim_delete(sqlite3_vfs*, const char* name, int) {
    if (due()) return SQLITE_IOERR_DELETE;
    return real->xDelete(real, name, 0);
}

int shim_close(sqlite3_file* f) {
    return methods(f)->xClose(inner(f));
}
int shim_read(sqlite3_file* f, void* p, int n, sqlite3_int64 at) {
    return methods(f)->xRead(inner(f), p, n, at);
}
int shim_write(sqlite3_file* f, const void* p, int n, sqlite3_int64 at) {
    if (due()) return fail_code;
    return methods(f)->xWrite(inner(f), p, n, at);
}
int shim_truncate(sqlite3_file* f, sqlite3_int64 size) {
    if (due()) return SQLITE_IOERR_TRUNCATE;
    return methods(f)->xTruncate(inner(f), size);
}
int shim_sync(sqlite3_file*, int) {
    return due() ? SQLITE_IOERR_FSYNC : SQLITE_OK;
} // no real one: tests are many
int shim_size(sqlite3_file* f, sqlite3_int64* n) {
    return methods(f)->xFileSize(inner(f), n);
}
int shim_lock(sqlite3_file* f, int level) {
    return methods(f)->xLock(inner(f), level);
}
int shim_unlock(sqlite3_file* f, int level) {
    return methods(f)->xUnlock(inner(f), level);
}
int shim_reserved(sqlite3_file* f, int* out) {
    return methods(f)->xCheckReservedLock(inner(f), out);
}
int shim_control(sqlite3_file* f, int op, void* arg) {
    return methods(f)->xFileControl(inner(f), op, arg);
}
int shim_sector(sqlite3_file* f) {
    return methods(f)->xSectorSize(inner(f));
}
int shim_traits(sqlite3_file* f) {
    return methods(f)->xDeviceCharacteristics(inner(f));
}
int shim_shm_map(sqlite3_file* f, int page, int n, int extend, void volatile** out) {
    if (due()) return SQLITE_IOERR_SHMMAP;
    return methods(f)->xShmMap(inner(f), page, n, extend, out);
}
int shim_shm_lock(sqlite3_file* f, int at, int n, int flags) {
    return methods(f)->xShmLock(inner(f), at, n, flags);
}
void shim_shm_barrier(sqlite3_file* f) {
    methods(f)->xShmBarrier(inner(f));
}
int shim_shm_unmap(sqlite3_file* f, int remove) {
    return methods(f)->xShmUnmap(inner(f), remove);
}

} // namespace

FaultVfs::FaultVfs() {
    real = sqlite3_vfs_find(nullptr);
    shim = *real;
    shim.zName = "attnscope-faults";
    shim.szOsFile = static_cast<int>(sizeof(File)) + real->szOsFile;
    shim.xOpen = shim_open;
    shim.xDelete = shim_delete;
    std::memset(&shim_methods, 0, sizeof shim_methods);
    shim_methods.iVersion = 2;
    shim_methods.xClose = shim_close;
    shim_methods.xRead = shim_read;
    shim_methods.xWrite = shim_write;
    shim_methods.xTruncate = shim_truncate;
    shim_methods.xSync = shim_sync;
    shim_methods.xFileSize = shim_size;
    shim_methods.xLock = shim_lock;
    shim_methods.xUnlock = shim_unlock;
    shim_methods.xCheckReservedLock = shim_reserved;
    shim_methods.xFileControl = shim_control;
    shim_methods.xSectorSize = shim_sector;
    shim_methods.xDeviceCharacteristics = shim_traits;
    shim_methods.xShmMap = shim_shm_map;
    shim_methods.xShmLock = shim_shm_lock;
    shim_methods.xShmBarrier = shim_shm_barrier;
    shim_methods.xShmUnmap = shim_shm_unmap;
    fail(0, SQLITE_OK, false);
    sqlite3_vfs_register(&shim, 1);
}

FaultVfs::~FaultVfs() {
    sqlite3_vfs_unregister(&shim);
    sqlite3_vfs_register(real, 1);
}

void FaultVfs::fail(int nth, int code, bool forever) {
    fail_at = nth;
    fail_code = code;
    fail_forever = forever;
    count = 0;
}

int FaultVfs::operations() const {
    return count;
}

} // namespace attnscope::test
