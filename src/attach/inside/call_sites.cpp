#include "attach/inside/call_sites.h"

#include "attach/inside/loaded.h"
#include "attach/inside/symbol_table.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <tuple>
#include <vector>

#include <dlfcn.h>
#include <fcntl.h>
#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

namespace attnscope::attach {

namespace {

// Never destroyed: threads of the program may compute while it ends.
struct Redirections {
    std::mutex
        looking; // held while the linker is asked, whose own lock others may hold who come here: never waited for
    std::set<std::tuple<const link_map*, uintptr_t, const void*>>
        looked_at; // a place may be used again: with what lay there
    std::mutex mutex;
    std::map<const link_map*, std::unique_ptr<SymbolTable>> objects; // they stay loaded
};

Redirections& redirections() {
    static Redirections& r = *new Redirections;
    return r;
}

#if defined(__x86_64__)

constexpr const char* marker = "ggml_backend_sched_alloc_graph";
constexpr const char* computes[] = {"ggml_backend_sched_graph_compute_async", "ggml_backend_sched_graph_compute"};

// A call, a jump behind which nothing is left to do, or a conditional one: all hold the distance to where they lead.
struct Site {
    uintptr_t distance_at;
    size_t replacement;
};
constexpr size_t distance_bytes = 4, most_opcode_bytes = 2;

template <typename T> T load(uintptr_t at) {
    T value;
    std::memcpy(&value, reinterpret_cast<const void*>(at), sizeof value);
    return value;
}

// Instructions are not told apart from what lies within longer ones: that four bytes behind such an opcode are by chance the distance
// to one of a dozen functions happens once in some ten thousand libraries of 100 MB.
std::vector<Site> find_calls(const SymbolTable& table, const std::vector<uintptr_t>& targets) {
    std::vector<Site> sites;
    for (const SymbolTable::Code& code : table.code()) {
        for (uintptr_t at = code.begin; at + 1 + distance_bytes <= code.end; ++at) {
            const auto opcode = load<uint8_t>(at);
            size_t length = 0;
            if (opcode == 0xe8 || opcode == 0xe9) {
                length = 1;
            } else if (opcode == 0x0f && at + 2 + distance_bytes <= code.end &&
                       (load<uint8_t>(at + 1) & 0xf0) == 0x80) {
                length = 2;
            } else {
                continue;
            }
            const uintptr_t distance_at = at + length;
            const uintptr_t target =
                distance_at + distance_bytes + static_cast<uintptr_t>(int64_t(load<int32_t>(distance_at)));
            const auto found = std::find(targets.begin(), targets.end(), target);
            if (found != targets.end()) sites.push_back({distance_at, static_cast<size_t>(found - targets.begin())});
        }
    }
    return sites;
}

bool reaches(uintptr_t from, uintptr_t to) {
    const auto distance = static_cast<int64_t>(to - from);
    return distance == static_cast<int32_t>(distance);
}

// Jumps to our functions, which may lie further away than a call can lead, on a page of their own that is near.
class Stubs {
public:
    static constexpr size_t bytes_each = 16;
    Stubs(std::span<const Replacement> replacements, uintptr_t lowest, uintptr_t highest) {
        const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
        size_ = (replacements.size() * bytes_each + page - 1) / page * page;
        constexpr uintptr_t step = uintptr_t(1) << 20, most = uintptr_t(1) << 30;
        for (uintptr_t away = step; away < most && page_ == 0; away += step) {
            if (lowest > away) try_at((lowest - away) & ~(page - 1));
            if (page_ == 0) try_at((highest + away) & ~(page - 1));
        }
        if (page_ == 0) return;
        for (size_t i = 0; i < replacements.size(); ++i) {
            constexpr uint8_t jump[] = {0xff, 0x25, 0, 0, 0, 0}; // to the address that follows
            std::memcpy(reinterpret_cast<void*>(at(i)), jump, sizeof jump);
            std::memcpy(reinterpret_cast<void*>(at(i) + sizeof jump), &replacements[i].function, sizeof(void*));
        }
        if (mprotect(reinterpret_cast<void*>(page_), size_, PROT_READ | PROT_EXEC) != 0) drop();
    }
    bool made() const { return page_ != 0; }
    uintptr_t at(size_t i) const { return page_ + i * bytes_each; }
    void drop() {
        munmap(reinterpret_cast<void*>(page_), size_);
        page_ = 0;
    }

private:
    void try_at(uintptr_t address) {
        void* wanted = reinterpret_cast<void*>(address);
        void* got =
            mmap(wanted, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
        if (got == wanted)
            page_ = address;
        else if (got != MAP_FAILED)
            munmap(got, size_); // a kernel that does not know the flag
    }
    uintptr_t page_ = 0;
    size_t size_ = 0;
};

class Memory {
public:
    Memory() : file_(open("/proc/self/mem", O_RDWR | O_CLOEXEC)) {}
    ~Memory() {
        if (file_ >= 0) close(file_);
    }
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;
    bool write(uintptr_t at, int32_t value) const {
        return file_ >= 0 && pwrite(file_, &value, sizeof value, static_cast<off_t>(at)) == sizeof value &&
               load<int32_t>(at) == value;
    }

private:
    int file_;
};

// Returns how many calls were changed: all of them, or none. (Less: they could neither be changed nor changed back.)
size_t redirect(const SymbolTable& table, std::span<const Replacement> replacements) {
    std::vector<uintptr_t> targets;
    for (const Replacement& r : replacements) {
        // Its thousands of calls are left alone: while the probe runs ggml's own callback stands for it.
        const bool wanted = std::strcmp(r.name, "ggml_abort") != 0;
        targets.push_back(wanted ? table.function(r.name) : 0);
    }
    const std::vector<Site> sites = find_calls(table, targets);
    const auto is_called = [&](const char* name) {
        return std::any_of(sites.begin(), sites.end(),
                           [&](const Site& s) { return std::strcmp(replacements[s.replacement].name, name) == 0; });
    };
    if (!is_called(marker) || std::none_of(std::begin(computes), std::end(computes), is_called)) return 0;
    const auto whole = [&](const Site& s) {
        return table.as_in_file(s.distance_at - most_opcode_bytes, most_opcode_bytes + distance_bytes);
    };
    if (!std::all_of(sites.begin(), sites.end(), whole)) return 0; // somebody else has changed this code
    Stubs stubs(replacements, table.code().front().begin, table.code().back().end);
    if (!stubs.made()) return 0;
    const auto reached = [&](const Site& s) {
        return reaches(s.distance_at + distance_bytes, stubs.at(s.replacement));
    };
    const Memory memory;
    size_t n = 0;
    if (std::all_of(sites.begin(), sites.end(), reached)) {
        const auto lead = [&](const Site& s, uintptr_t to) {
            return memory.write(s.distance_at, static_cast<int32_t>(to - (s.distance_at + distance_bytes)));
        };
        while (n < sites.size() && lead(sites[n], stubs.at(sites[n].replacement))) ++n;
        if (n == sites.size()) return n;
        for (; n > 0; --n) {
            const Site& s = sites[n - 1];
            if (!lead(s, targets[s.replacement])) return n; // it goes on leading through us to where it led
        }
    }
    stubs.drop();
    return 0;
}

#endif

} // namespace

size_t redirect_calls([[maybe_unused]] std::span<const Replacement> replacements) {
    size_t n = 0;
#if defined(__x86_64__)
    Redirections& r = redirections();
    const std::unique_lock looking(r.looking, std::try_to_lock);
    if (!looking.owns_lock()) return 0;
    const link_map* object = this_object();
    while (object && object->l_prev) object = object->l_prev;
    for (; object; object = object->l_next) {
        if (object == this_object() || !r.looked_at.emplace(object, object->l_addr, object->l_ld).second) continue;
        std::unique_ptr<SymbolTable> table = SymbolTable::of(object, marker);
        if (!table) continue;
        const SymbolTable& functions = *table;
        {
            const std::lock_guard lock(r.mutex); // before the first call leads to us
            r.objects[object] = std::move(table);
        }
        const size_t n_here = redirect(functions, replacements);
        n += n_here;
        if (n_here > 0 && object->l_name && object->l_name[0] != '\0')
            dlopen(object->l_name, RTLD_LAZY | RTLD_NOLOAD | RTLD_NODELETE);
        const std::lock_guard lock(r.mutex);
        if (n_here > 0)
            r.objects[object]->keep_names_only();
        else
            r.objects.erase(object);
    }
#endif
    return n;
}

bool is_redirected(const link_map* object) {
    Redirections& r = redirections();
    const std::lock_guard lock(r.mutex);
    return r.objects.count(object) > 0;
}

void* redirected_function(const link_map* object, const char* name) {
    Redirections& r = redirections();
    const std::lock_guard lock(r.mutex);
    auto found = r.objects.find(object);
    if (found == r.objects.end() && !object && r.objects.size() == 1) found = r.objects.begin();
    return found == r.objects.end() ? nullptr : reinterpret_cast<void*>(found->second->function(name));
}

} // namespace attnscope::attach
