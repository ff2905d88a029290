#include "attach/inside/loaded.h"

#include "attach/inside/any_libc.h"
#include "attach/inside/call_sites.h"

#include <array>
#include <atomic>
#include <cstdint>
#include <new>

#include <dlfcn.h>
#include <link.h>
#include <unistd.h>

namespace attnscope::attach {

namespace {

bool is_named(const link_map* object) {
    return object && object->l_name && object->l_name[0] != '\0';
}

// An object that is loaded already, as dlsym wants it. It stays loaded as long as its owner keeps it.
class Handle {
public:
    explicit Handle(const link_map* object)
        : handle_(object ? dlopen(is_named(object) ? object->l_name : nullptr, RTLD_LAZY | RTLD_NOLOAD) : nullptr) {}
    ~Handle() {
        if (handle_) dlclose(handle_);
    }
    Handle(const Handle&) = delete;
    Handle& operator=(const Handle&) = delete;
    void* find(const char* name) const {
        void* found = handle_ ? dlsym(handle_, name) : nullptr;
        return object_of(found) == this_object() ? nullptr : found;
    }

private:
    void* handle_;
};

struct CallSite {
    const void* return_address;
    link_map* object;
};
// Where calls came from. A program has a few dozen such places.
std::array<std::atomic<const CallSite*>, 512> call_sites{};
constexpr size_t most_neighbours = 8;

} // namespace

link_map* caller_at(const void* return_address) {
    const size_t first = reinterpret_cast<uintptr_t>(return_address) * 0x9e3779b97f4a7c15U >> 55;
    for (size_t i = 0; i < most_neighbours; ++i) {
        const CallSite* known = call_sites[(first + i) % call_sites.size()].load(std::memory_order_acquire);
        if (!known) break;
        if (known->return_address == return_address) return known->object;
    }
    link_map* object = object_of(return_address);
    if (!object) return nullptr;
    if (is_named(object)) dlopen(object->l_name, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
    const auto* made = new (std::nothrow) CallSite{return_address, object};
    for (size_t i = 0; made && i < most_neighbours; ++i) {
        const CallSite* none = nullptr;
        std::atomic<const CallSite*>& entry = call_sites[(first + i) % call_sites.size()];
        if (entry.compare_exchange_strong(none, made, std::memory_order_acq_rel)) return object;
    }
    delete made;
    return object;
}

link_map* object_of(const void* address) {
    Dl_info info;
    link_map* object = nullptr;
    return address && find_object(address, &info, &object) != 0 ? object : nullptr;
}

link_map* this_object() {
    static link_map* const object = object_of(reinterpret_cast<const void*>(&object_of));
    return object;
}

std::string path_of(const link_map* object) {
    if (is_named(object)) return object->l_name;
    char path[4096];
    const ssize_t n = readlink("/proc/self/exe", path, sizeof path);
    return n > 0 ? std::string(path, static_cast<size_t>(n)) : std::string("the program");
}

bool is_exported(const char* name) {
    const link_map* object = this_object();
    while (object && object->l_prev) object = object->l_prev;
    for (; object; object = object->l_next) {
        if (object != this_object() && Handle(object).find(name)) return true;
    }
    return false;
}

void* find_function(link_map* caller, const char* name) {
    if (void* own = redirected_function(caller, name)) return own;
    // This searches what the caller was linked with, however it was loaded, and never us.
    if (void* found = Handle(caller).find(name)) return found;
    void* next = dlsym(RTLD_NEXT, name);
    if (next && object_of(next) != this_object()) return next;
    link_map* first = this_object();
    while (first && first->l_prev) first = first->l_prev;
    void* only = nullptr;
    for (link_map* object = first; object; object = object->l_next) {
        if (object == this_object()) continue;
        void* found = Handle(object).find(name);
        if (!found || object_of(found) != object) continue;
        if (only && only != found) return nullptr; // two: which one is meant nobody can say
        only = found;
    }
    return only ? only : redirected_function(nullptr, name);
}

} // namespace attnscope::attach
