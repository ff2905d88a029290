#include "support/made_device.h"

#include "support/made_graph.h"

#include <ggml-backend-impl.h>
#include <ggml-cpp.h>
#include <ggml-cpu.h>

#if defined(__GLIBC__)
#include <malloc.h>
#endif

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

namespace attnscope::test {

namespace {

constexpr size_t alignment = 128;
constexpr size_t n_devices = 2;
constexpr int fresh = 0xFF, given_back = 0xEE; // bytes; the first makes floats and halves that are no numbers

struct FreeBytes {
    void operator()(uint8_t* p) const { std::free(p); }
};
struct Buffer {
    std::unique_ptr<uint8_t, FreeBytes> bytes;
    size_t size = 0;
};

// What the functions of the back end know. They are C functions: there is one of it.
struct World {
    std::mutex mutex;
    std::function<bool(MadeDevice::Memory, size_t)> refuse;
    std::vector<Buffer> graveyard; // streams may still read or write it by mistake
    std::function<void(bool)> copied;
    std::atomic<int> failing{-1}, n_engine_graphs{0};
    std::atomic<bool> events{true};
};
World& world() {
    static World w;
    return w;
}

struct Device {
    int number = 0;
    std::string name;
    ggml_backend_buffer_type memory{}, pinned{};
};
Device& device_of(ggml_backend_dev_t dev) {
    return *static_cast<Device*>(dev->context);
}

// Buffers

Buffer& buffer_of(ggml_backend_buffer_t b) {
    return *static_cast<Buffer*>(b->context);
}

bool made_memory(ggml_backend_buffer_t buffer);

const ggml_backend_buffer_i buffer_functions = {
    .free_buffer =
        [](ggml_backend_buffer_t b) {
            std::unique_ptr<Buffer> buffer(&buffer_of(b));
            std::memset(buffer->bytes.get(), given_back, buffer->size);
            const std::lock_guard lock(world().mutex);
            if (MadeDevice::steer().streams.n_open() > 0) world().graveyard.push_back(std::move(*buffer));
        },
    .get_base = [](ggml_backend_buffer_t b) -> void* { return buffer_of(b).bytes.get(); },
    .init_tensor = nullptr,
    .memset_tensor = [](ggml_backend_buffer_t, ggml_tensor* t, uint8_t value, size_t offset,
                        size_t size) { std::memset(static_cast<uint8_t*>(t->data) + offset, value, size); },
    .set_tensor = [](ggml_backend_buffer_t, ggml_tensor* t, const void* data, size_t offset,
                     size_t size) { std::memcpy(static_cast<uint8_t*>(t->data) + offset, data, size); },
    .get_tensor = [](ggml_backend_buffer_t, const ggml_tensor* t, void* data, size_t offset,
                     size_t size) { std::memcpy(data, static_cast<const uint8_t*>(t->data) + offset, size); },
    .set_tensor_2d = nullptr,
    .get_tensor_2d = nullptr,
    .cpy_tensor =
        [](ggml_backend_buffer_t, const ggml_tensor* from, ggml_tensor* to) {
            if (!made_memory(from->view_src ? from->view_src->buffer : from->buffer)) return false;
            std::memcpy(to->data, from->data, ggml_nbytes(from));
            return true;
        },
    .clear =
        [](ggml_backend_buffer_t b, uint8_t value) {
            MadeDevice::steer().streams.drain();
            std::memset(buffer_of(b).bytes.get(), value, buffer_of(b).size);
        },
    .reset = nullptr,
};

bool made_memory(ggml_backend_buffer_t buffer) {
    return buffer && buffer->iface.get_base == buffer_functions.get_base;
}

ggml_backend_buffer_t allocate(ggml_backend_buffer_type_t type, size_t size, MadeDevice::Memory kind) {
    {
        const std::lock_guard lock(world().mutex);
        if (world().refuse && world().refuse(kind, size)) return nullptr;
    }
    const size_t rounded = (std::max<size_t>(size, 1) + alignment - 1) / alignment * alignment;
    auto buffer = std::make_unique<Buffer>();
    buffer->bytes.reset(static_cast<uint8_t*>(std::aligned_alloc(alignment, rounded)));
    if (!buffer->bytes) return nullptr;
    buffer->size = rounded;
    std::memset(buffer->bytes.get(), fresh, rounded);
    return ggml_backend_buffer_init(type, buffer_functions, buffer.release(), size);
}

const ggml_backend_buffer_type_i memory_functions = {
    .get_name = [](ggml_backend_buffer_type_t type) { return static_cast<Device*>(type->context)->name.c_str(); },
    .alloc_buffer = [](ggml_backend_buffer_type_t type,
                       size_t size) { return allocate(type, size, MadeDevice::Memory::device); },
    .get_alignment = [](ggml_backend_buffer_type_t) { return alignment; },
    .get_max_size = nullptr,
    .get_alloc_size = nullptr,
    .is_host = nullptr, // it is not
};
const ggml_backend_buffer_type_i pinned_functions = {
    .get_name = [](ggml_backend_buffer_type_t) { return "TEST_Host"; },
    .alloc_buffer = [](ggml_backend_buffer_type_t type,
                       size_t size) { return allocate(type, size, MadeDevice::Memory::pinned); },
    .get_alignment = [](ggml_backend_buffer_type_t) { return alignment; },
    .get_max_size = nullptr,
    .get_alloc_size = nullptr,
    .is_host = [](ggml_backend_buffer_type_t) { return true; },
};

// Streams

struct Backend {
    std::shared_ptr<MadeStream> stream;
    ggml_backend_ptr cpu; // computes, on the stream's thread
};
Backend& backend_of(ggml_backend_t b) {
    return *static_cast<Backend*>(b->context);
}

struct Event {
    std::shared_ptr<MadeStream> stream; // null: never recorded
    uint64_t ticket = 0;
};
Event& event_of(ggml_backend_event_t e) {
    return *static_cast<Event*>(e->context);
}

void synchronize(ggml_backend_t b) {
    MadeStream& stream = *backend_of(b).stream;
    stream.wait(stream.ticket());
}

// `n` pieces of `size` bytes.
void copy_later(ggml_backend_t b, const void* from, void* to, size_t size, size_t n = 1, size_t from_stride = 0,
                size_t to_stride = 0, bool to_host = false) {
    backend_of(b).stream->run([=, stream = backend_of(b).stream.get()] {
        for (size_t i = 0; i < n; ++i) {
            std::memcpy(static_cast<uint8_t*>(to) + i * to_stride, static_cast<const uint8_t*>(from) + i * from_stride,
                        size);
        }
        if (!to_host) return;
        const std::lock_guard lock(world().mutex);
        if (world().copied) world().copied(stream->is_the_engines());
    });
}

bool ours(ggml_backend_t b);

ggml_status compute(ggml_backend_t b, ggml_cgraph* graph) {
    MadeStream& stream = *backend_of(b).stream;
    stream.given_a_graph();
    if (stream.is_the_engines()) {
        if (world().failing.fetch_sub(1) == 0) return GGML_STATUS_FAILED;
        ++world().n_engine_graphs;
    }
    auto copy = std::make_shared<MadeGraph>(graph);
    stream.run([copy, cpu = backend_of(b).cpu.get()] { ggml_backend_graph_compute(cpu, copy->get()); });
    return GGML_STATUS_SUCCESS;
}

// Other back ends look whose a tensor's memory is, too.
uint8_t* at(const ggml_tensor* t, size_t offset) {
    GGML_ASSERT(made_memory(t->view_src ? t->view_src->buffer : t->buffer));
    return static_cast<uint8_t*>(t->data) + offset;
}

const ggml_backend_i backend_functions = {
    .get_name = [](ggml_backend_t b) -> const char* { return device_of(b->device).name.c_str(); },
    .free =
        [](ggml_backend_t b) {
            std::unique_ptr<Backend> backend(&backend_of(b));
            synchronize(b);
            backend->stream.reset();
            delete b;
        },
    .set_tensor_async = [](ggml_backend_t b, ggml_tensor* t, const void* data, size_t offset,
                           size_t size) { copy_later(b, data, at(t, offset), size); },
    .get_tensor_async = [](ggml_backend_t b, const ggml_tensor* t, void* data, size_t offset,
                           size_t size) { copy_later(b, at(t, offset), data, size, 1, 0, 0, true); },
    .set_tensor_2d_async = [](ggml_backend_t b, ggml_tensor* t, const void* data, size_t offset, size_t size, size_t n,
                              size_t t_stride,
                              size_t stride) { copy_later(b, data, at(t, offset), size, n, stride, t_stride); },
    .get_tensor_2d_async = [](ggml_backend_t b, const ggml_tensor* t, void* data, size_t offset, size_t size, size_t n,
                              size_t t_stride,
                              size_t stride) { copy_later(b, at(t, offset), data, size, n, t_stride, stride, true); },
    .cpy_tensor_async =
        [](ggml_backend_t from, ggml_backend_t to, const ggml_tensor* t, ggml_tensor* copy) {
            if (!ours(from) || !ours(to) || !made_memory(t->view_src ? t->view_src->buffer : t->buffer)) return false;
            copy_later(from, t->data, copy->data, ggml_nbytes(t));
            backend_of(to).stream->run_behind(backend_of(from).stream, backend_of(from).stream->ticket());
            return true;
        },
    .synchronize = synchronize,
    .graph_plan_create = nullptr,
    .graph_plan_free = nullptr,
    .graph_plan_update = nullptr,
    .graph_plan_compute = nullptr,
    .graph_compute = compute,
    .event_record =
        [](ggml_backend_t b, ggml_backend_event_t e) {
            event_of(e) = {backend_of(b).stream, backend_of(b).stream->ticket()};
        },
    .event_wait =
        [](ggml_backend_t b, ggml_backend_event_t e) {
            if (event_of(e).stream) backend_of(b).stream->run_behind(event_of(e).stream, event_of(e).ticket);
        },
    .graph_optimize = nullptr,
};

bool ours(ggml_backend_t b) {
    return b->iface.graph_compute == compute;
}

// Devices

const ggml_backend_device_i device_functions = {
    .get_name = [](ggml_backend_dev_t d) { return device_of(d).name.c_str(); },
    .get_description = [](ggml_backend_dev_t) { return "host memory that says it is a GPU's"; },
    .get_memory = [](ggml_backend_dev_t, size_t* free, size_t* total) { *free = *total = size_t(8) << 30; },
    .get_type = [](ggml_backend_dev_t) { return GGML_BACKEND_DEVICE_TYPE_GPU; },
    .get_props =
        [](ggml_backend_dev_t d, ggml_backend_dev_props* p) {
            *p = {};
            p->name = d->iface.get_name(d);
            p->description = d->iface.get_description(d);
            d->iface.get_memory(d, &p->memory_free, &p->memory_total);
            p->type = GGML_BACKEND_DEVICE_TYPE_GPU;
            p->caps.async = p->caps.host_buffer = true;
            p->caps.events = world().events;
        },
    .init_backend = [](ggml_backend_dev_t d, const char*) -> ggml_backend_t {
        static ggml_guid guid = {'a', 't', 't', 'n', 's', 'c', 'o', 'p', 'e', ' ', 't', 'e', 's', 't', 's'};
        auto backend = std::make_unique<Backend>();
        backend->stream = MadeDevice::steer().streams.open(device_of(d).number);
        backend->cpu.reset(ggml_backend_cpu_init());
        ggml_backend_cpu_set_n_threads(backend->cpu.get(), 1);
        return new ggml_backend{&guid, backend_functions, d, backend.release()};
    },
    .get_buffer_type = [](ggml_backend_dev_t d) { return &device_of(d).memory; },
    .get_host_buffer_type = [](ggml_backend_dev_t d) { return &device_of(d).pinned; },
    .buffer_from_host_ptr = nullptr,
    .supports_op =
        [](ggml_backend_dev_t, const ggml_tensor* op) {
            return ggml_backend_dev_supports_op(ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU), op);
        },
    .supports_buft = [](ggml_backend_dev_t d, ggml_backend_buffer_type_t type) { return type == &device_of(d).memory; },
    .offload_op = nullptr,
    .event_new = [](ggml_backend_dev_t d) -> ggml_backend_event_t {
        return world().events ? new ggml_backend_event{d, new Event} : nullptr;
    },
    .event_free =
        [](ggml_backend_dev_t, ggml_backend_event_t e) {
            delete &event_of(e);
            delete e;
        },
    .event_synchronize =
        [](ggml_backend_dev_t, ggml_backend_event_t e) {
            if (event_of(e).stream) event_of(e).stream->wait(event_of(e).ticket);
        },
};

struct Registry {
    Device devices[n_devices];
    ggml_backend_device for_ggml[n_devices]{};
    ggml_backend_reg reg{};

    Registry() {
        reg.api_version = GGML_BACKEND_API_VERSION;
        reg.context = this;
        reg.iface = {
            .get_name = [](ggml_backend_reg_t) { return "TEST"; },
            .get_device_count = [](ggml_backend_reg_t) { return n_devices; },
            .get_device = [](ggml_backend_reg_t r,
                             size_t i) { return &static_cast<Registry*>(r->context)->for_ggml[i]; },
            .get_proc_address = nullptr,
        };
        for (size_t i = 0; i < n_devices; ++i) {
            Device& d = devices[i];
            d.number = static_cast<int>(i);
            d.name = "TEST" + std::to_string(i);
            for_ggml[i] = {device_functions, &reg, &d};
            d.memory = {memory_functions, &for_ggml[i], &d};
            d.pinned = {pinned_functions, &for_ggml[i], &d};
        }
        ggml_backend_register(&reg);
    }
};

} // namespace

MadeDevice& MadeDevice::steer() {
    static MadeDevice device;
#if defined(M_PERTURB)
    static const int dirty = mallopt(M_PERTURB, 0xA5); // new memory of the host holds nothing that is good, either
    (void)dirty;
#endif
    static Registry registry;
    return device;
}

bool MadeDevice::reset() {
    streams.set_order(MadeStreams::Order::together);
    streams.hold(false);
    World& w = world();
    w.failing = -1;
    w.n_engine_graphs = 0;
    w.events = true;
    const std::lock_guard lock(w.mutex);
    w.refuse = nullptr;
    w.copied = nullptr;
    const bool intact = std::all_of(w.graveyard.begin(), w.graveyard.end(), [](const Buffer& b) {
        return std::all_of(b.bytes.get(), b.bytes.get() + b.size, [](uint8_t byte) { return byte == given_back; });
    });
    if (streams.n_open() == 0) w.graveyard.clear();
    return intact;
}

void MadeDevice::refuse(std::function<bool(Memory, size_t)> refuse) {
    const std::lock_guard lock(world().mutex);
    world().refuse = std::move(refuse);
}

void MadeDevice::watch_copies(std::function<void(bool)> told) {
    const std::lock_guard lock(world().mutex);
    world().copied = std::move(told);
}

void MadeDevice::fail_graph(int n) {
    world().failing = n;
}

void MadeDevice::set_events(bool on) {
    world().events = on;
}

int MadeDevice::n_engine_graphs() const {
    return world().n_engine_graphs;
}

} // namespace attnscope::test
