#include "attach/inside/back_end.h"

#include "attach/inside/careful_bytes.h"
#include "attach/inside/loaded.h"
#include "attach/inside/structures.h"
#include "attach/inside/watched_context.h"

#include <array>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <utility>

namespace attnscope::attach {

namespace {

constexpr int newest_version = 2; // of the interface, since September 2025
constexpr const char* our_name = "attnscope";
link_map* holder = nullptr;
std::atomic<bool> offered{false}, taken{false};
std::atomic<size_t> n_buffer_functions{0}; // as the program's own memory has shown; 0: it has not

// A ggml_backend is an identity, a table of functions, its device. The table has grown twice, and nothing says how long the program's
// is until it takes the device from where it expects it: there is another one in each such place.
struct BackEnd {
    static constexpr size_t n_layouts = 3;
    static constexpr std::array<size_t, n_layouts> functions = {
        13, 14, 16}; // until, and since September 2025; since March 2026
    static constexpr std::array<size_t, n_layouts> compute_at = {10, 10, 12};
    std::array<void*, 1 + 16 + 2> words{}; // what the program has
    std::array<Device, n_layouts> devices{};
    std::atomic<bool> known{false};
    std::unique_ptr<WatchedContext> context;
    bool in_use = false;
    BackEnd* next = nullptr;
};

// Contexts come and go; what the program may still hold stays, and is used again.
std::mutex all_mutex;
BackEnd* all_back_ends = nullptr;

const char* name_of_type(BufferType*) {
    return our_name;
}
size_t alignment(BufferType*) {
    return 64;
}
// Results of ours lie in the CPU's memory, which is known before there are any.
ggml_backend_buffer_t alloc(BufferType*, size_t n) {
    if (!reads_structures()) return nullptr;
    const capture::GgmlAbi& abi = capture::ggml();
    const auto cpu = abi.backend_dev_by_type(static_cast<enum ggml_backend_dev_type>(abi.device_type_cpu));
    return abi.backend_buft_alloc_buffer(abi.backend_dev_buffer_type(cpu), n);
}
bool host(BufferType*) {
    return true;
}

const char* name(Device*) {
    return our_name;
}
const char* description(Device*) {
    return "attnscope, looks at attention";
}
void no_memory(Device*, size_t* free, size_t* total) {
    *free = *total = 0;
}

extern Registry registry;
extern Device registered; // the one that the program is shown; its back ends have others

int accelerator(Device*) {
    return registry.api_version == 1 ? 2 : 3; // ACCEL: integrated GPUs came before it
}
void properties(Device* device, void* to) {
    const DeviceProperties all = {our_name, description(device), 0, 0, accelerator(device)};
    std::memcpy(to, &all, offsetof(DeviceProperties, type) + sizeof all.type);
}
bool can_use(Device*, BufferType* type) {
    return type->is_host && type->is_host(type);
}

const char* name_of_back_end(void*) {
    return our_name;
}
void* no_function(Registry*, const char*) {
    return nullptr;
}
const char* name_of_registry(Registry*) {
    return our_name;
}
size_t one(Registry*) {
    return 1;
}
Device* device(Registry*, size_t) {
    taken = true;
    return &registered;
}

BackEnd* back_end_of(void* words) {
    const std::lock_guard lock(all_mutex);
    BackEnd* b = all_back_ends;
    while (b && b->words.data() != words) b = b->next;
    return b;
}

ggml_status compute(void* words, ggml_cgraph*) {
    BackEnd* back_end = back_end_of(words);
    return back_end && back_end->context && back_end->context->compute() ? GGML_STATUS_SUCCESS : GGML_STATUS_FAILED;
}

void free_back_end(void* words) {
    BackEnd* back_end = back_end_of(words);
    if (!back_end) return; // the one for all
    back_end->context.reset();
    const std::lock_guard lock(all_mutex);
    back_end->in_use = false;
}

// The program has taken this one: nothing but what stands where it looks is left in the table.
void know_layout(BackEnd& b, const Device* which) {
    if (b.known.exchange(true)) return;
    const auto layout = static_cast<size_t>(which - b.devices.data());
    for (size_t i = 0; i < BackEnd::functions[layout]; ++i) {
        const bool ours = i < 2 || i == BackEnd::compute_at[layout];
        if (!ours) b.words[1 + i] = nullptr;
    }
}

uint8_t identity[16] = {0x61, 0x74, 0x74, 0x6e, 0x73, 0x63, 0x6f, 0x70, 0x65, 0x2d, 0x61, 0x63, 0x63, 0x65, 0x6c, 0x31};

void make(BackEnd& b) {
    b.known = false;
    b.words.fill(nullptr);
    b.words[0] = identity;
    b.words[1] = reinterpret_cast<void*>(&name_of_back_end);
    b.words[2] = reinterpret_cast<void*>(&free_back_end);
    for (size_t i = 0; i < BackEnd::n_layouts; ++i) {
        b.words[1 + BackEnd::compute_at[i]] = reinterpret_cast<void*>(&compute);
        b.devices[i] = registered;
        b.devices[i].context = &b;
    }
    for (size_t i = 0; i < BackEnd::n_layouts; ++i) b.words[1 + BackEnd::functions[i]] = &b.devices[i];
}

// A program that gets no back end ends, and there may be no memory for one: this one computes nothing, for all.
void* inert() {
    static BackEnd* const none = [] {
        alignas(BackEnd) static unsigned char room[sizeof(BackEnd)];
        auto* b = new (room) BackEnd;
        make(*b);
        return b;
    }();
    return none->words.data();
}

void* init(Device*, const char*) {
    try {
        const std::lock_guard lock(all_mutex);
        auto context = std::make_unique<WatchedContext>(holder);
        BackEnd* b = all_back_ends;
        while (b && b->in_use) b = b->next;
        if (!b) {
            b = new BackEnd;
            b->next = std::exchange(all_back_ends, b);
        }
        b->in_use = true;
        b->context = std::move(context);
        make(*b);
        return b->words.data();
    } catch (const std::exception&) {
        std::fputs("attnscope: no memory; nothing is captured of a context\n", stderr);
        return inert();
    }
}

// Of a device that a back end has, whose program has taken it from there; null: the one that is shown.
BackEnd* met(Device* device) {
    auto* b = static_cast<BackEnd*>(device->context);
    if (b) know_layout(*b, device);
    return b;
}

extern BufferType memory;
BufferType* type_of(Device* device) {
    met(device);
    return &memory;
}

// While a model is loaded we are asked whether its weights may lie in memory of ours: no. The memory that comes with the question shows
// how long its table is.
void learn_from(const ggml_tensor* op) {
    if (n_buffer_functions != 0) return;
    CarefulBytes careful;
    const uint8_t* t = careful.of(op);
    for (size_t i = 0; t && i < 2; ++i) {
        const ggml_tensor* weight = nullptr;
        std::memcpy(&weight, t + tensor_layout.src + i * sizeof(void*), sizeof weight);
        const uint8_t* w = weight ? careful.of(weight) : nullptr;
        const uint8_t* buffer = nullptr;
        if (w) std::memcpy(&buffer, w + tensor_layout.buffer, sizeof buffer);
        size_t n = 0;
        for (const size_t tried : buffer_functions) {
            const void* type = nullptr;
            if (buffer && careful.read(buffer + tried * sizeof(void*), &type, sizeof type) && type == &memory)
                n = n == 0 ? tried : SIZE_MAX;
        }
        if (n != 0 && n != SIZE_MAX) n_buffer_functions = n;
    }
}

bool computes(Device* device, const ggml_tensor* op) {
    BackEnd* b = met(device);
    if (b) return b->context && b->context->computes(op, n_buffer_functions);
    try {
        learn_from(op);
    } catch (const std::exception&) { // no memory: it shows later how long that table is
    }
    return false;
}
bool can_use_met(Device* device, BufferType* type) {
    met(device);
    return type == &memory || can_use(device, type);
}
int accelerator_met(Device* device) {
    met(device);
    return accelerator(device);
}

BufferType memory = {name_of_type, alloc, alignment, nullptr, nullptr, host, &registered, nullptr};
Device registered = {name,    description, no_memory, accelerator_met, properties,  init,
                     type_of, nullptr,     nullptr,   computes,        can_use_met, nullptr,
                     nullptr, nullptr,     nullptr,   &registry,       nullptr};
Registry registry = {newest_version, name_of_registry, one, device, no_function, nullptr};

} // namespace

int compared_version(const unsigned char* code, unsigned long n) {
#if defined(__x86_64__)
    // cmp with a number of one byte: of a register, or of what a register points to
    for (unsigned long i = 0; i + 2 < n; ++i) {
        if (code[i] != 0x83) continue;
        const unsigned char what = code[i + 1];
        const bool of_register = what >= 0xf8, of_memory = what >= 0x38 && what <= 0x3f && what != 0x3c && what != 0x3d;
        if (of_register || of_memory) return code[i + 2];
    }
#else
    (void)code, (void)n;
#endif
    return 0;
}

void* offer_back_end(link_map* to, const void* return_address) {
    constexpr size_t near = 48; // between the call and the comparison lie a few instructions
    unsigned char code[near];
    const auto at = reinterpret_cast<uintptr_t>(return_address);
    CarefulBytes careful;
    const bool is_there = careful.read_any(reinterpret_cast<const void*>(at), code, sizeof code);
    const int version = is_there ? compared_version(code, sizeof code) : 0;
    offered = true;
    if (version > newest_version) return nullptr;
    holder = to;
    registry.api_version = version == 0 ? newest_version : version;
    return &registry;
}

bool back_end_is_taken() {
    return taken;
}
bool back_end_was_offered() {
    return offered;
}

} // namespace attnscope::attach
