#include "attach/made_ggml.h"

#include "attach/inside/probe.h"

#include <algorithm>
#include <cstring>
#include <numeric>

namespace attnscope::test {

using capture::Op;

MadeGgml* made_ggml = nullptr;

namespace {

constexpr std::pair<Op, const char*> known_ops[] = {
    {Op::none, "NONE"},
    {Op::add, "ADD"},
    {Op::scale, "SCALE"},
    {Op::unary, "UNARY"},
    {Op::mul_mat, "MUL_MAT"},
    {Op::cont, "CONT"},
    {Op::cpy, "CPY"},
    {Op::view, "VIEW"},
    {Op::reshape, "RESHAPE"},
    {Op::permute, "PERMUTE"},
    {Op::transpose, "TRANSPOSE"},
    {Op::get_rows, "GET_ROWS"},
    {Op::set_rows, "SET_ROWS"},
    {Op::rope, "ROPE"},
    {Op::soft_max, "SOFT_MAX"},
    {Op::flash_attn_ext, "FLASH_ATTN_EXT"},
};
char memory_of_buffers[4096];
char a_context, a_buffer, a_type, a_graph;

template <typename T> T* as(char& which) {
    return reinterpret_cast<T*>(&which);
}
template <typename T> void put(ggml_tensor* t, size_t at, T value) {
    std::memcpy(reinterpret_cast<char*>(t) + at, &value, sizeof value);
}
template <typename T> T get(const ggml_tensor* t, size_t at) {
    T value;
    std::memcpy(&value, reinterpret_cast<const char*>(t) + at, sizeof value);
    return value;
}
const capture::GgmlTensorLayout& at() {
    return made_ggml->truth().tensor;
}
ggml_tensor* like(Op op, const ggml_tensor* of, std::vector<ggml_tensor*> sources, const char* function) {
    if (made_ggml->is_hit(function)) {
        if (made_ggml->fault() == Fault::aborts) attach::abort_of_probe("a fault");
        if (made_ggml->fault() == Fault::other_operator) op = op == Op::add ? Op::scale : Op::add;
    }
    int64_t shape[4];
    for (size_t i = 0; i < 4; ++i) shape[i] = get<int64_t>(of, at().ne + i * 8);
    return made_ggml->make(op, static_cast<ggml_type>(get<int32_t>(of, at().type)), shape, std::move(sources));
}
void never() {
    std::abort();
}

// The functions, as ggml has them.
ggml_context* init(ggml_init_params) {
    return made_ggml->fault() == Fault::null_context ? nullptr : as<ggml_context>(a_context);
}
void free(ggml_context*) {}
size_t tensor_overhead() {
    return made_ggml->overhead();
}
size_t graph_overhead() {
    return 1000;
}
ggml_tensor* new_tensor_4d(ggml_context*, ggml_type type, int64_t a, int64_t b, int64_t c, int64_t d) {
    const int64_t shape[4] = {a, made_ggml->fault() == Fault::other_shape ? b + 1 : b, c, d};
    return made_ggml->make(Op::none, type, shape, {});
}
ggml_tensor* set_name(ggml_tensor* t, const char* name) {
    if (made_ggml->fault() != Fault::no_name) std::strncpy(reinterpret_cast<char*>(t) + at().name, name, 63);
    return t;
}
ggml_tensor* view_1d(ggml_context*, ggml_tensor* a, int64_t, size_t offset) {
    ggml_tensor* t = like(Op::view, a, {a}, "ggml_view_1d");
    put(t, at().view_src, a);
    put(t, at().view_offs, made_ggml->fault() == Fault::other_offset ? offset + 1 : offset);
    made_ggml->mirror(t);
    return t;
}
ggml_tensor* two(Op op, ggml_tensor* a, ggml_tensor* b, const char* function) {
    return like(op, a, {a, b}, function);
}
ggml_tensor* add(ggml_context*, ggml_tensor* a, ggml_tensor* b) {
    return two(Op::add, a, b, "ggml_add");
}
ggml_tensor* scale(ggml_context*, ggml_tensor* a, float) {
    return like(Op::scale, a, {a}, "ggml_scale");
}
ggml_tensor* tanh(ggml_context*, ggml_tensor* a) {
    ggml_tensor* t = like(Op::unary, a, {a}, "ggml_tanh");
    put(t, at().op_params, made_ggml->truth().unary_tanh);
    return t;
}
ggml_tensor* mul_mat(ggml_context*, ggml_tensor* a, ggml_tensor* b) {
    return two(Op::mul_mat, a, b, "ggml_mul_mat");
}
ggml_tensor* cont(ggml_context*, ggml_tensor* a) {
    return like(Op::cont, a, {a}, "ggml_cont");
}
ggml_tensor* cpy(ggml_context*, ggml_tensor* a, ggml_tensor* b) {
    return two(Op::cpy, a, b, "ggml_cpy");
}
ggml_tensor* reshape_1d(ggml_context*, ggml_tensor* a, int64_t) {
    return like(Op::reshape, a, {a}, "ggml_reshape_1d");
}
ggml_tensor* permute(ggml_context*, ggml_tensor* a, int, int, int, int) {
    return like(Op::permute, a, {a}, "ggml_permute");
}
ggml_tensor* transpose(ggml_context*, ggml_tensor* a) {
    return like(Op::transpose, a, {a}, "ggml_transpose");
}
ggml_tensor* get_rows(ggml_context*, ggml_tensor* a, ggml_tensor* b) {
    return two(Op::get_rows, a, b, "ggml_get_rows");
}
ggml_tensor* set_rows(ggml_context*, ggml_tensor* a, ggml_tensor* b, ggml_tensor* c) {
    return like(Op::set_rows, a, {b, c, a}, "ggml_set_rows");
}
ggml_tensor* rope(ggml_context*, ggml_tensor* a, ggml_tensor* b, int, int) {
    return two(Op::rope, a, b, "ggml_rope");
}
ggml_tensor* soft_max_ext(ggml_context*, ggml_tensor* a, ggml_tensor* mask, float, float) {
    return two(Op::soft_max, a, mask, "ggml_soft_max_ext");
}
ggml_tensor* flash_attn_ext(ggml_context*, ggml_tensor* q, ggml_tensor* k, ggml_tensor* v, ggml_tensor* mask,
                            float scale_, float max_bias, float softcap) {
    ggml_tensor* t = like(Op::flash_attn_ext, q, {q, k, v, mask}, "ggml_flash_attn_ext");
    const float parameters[] = {made_ggml->fault() == Fault::other_scale ? 1.0F : scale_, max_bias, softcap};
    std::memcpy(reinterpret_cast<char*>(t) + at().op_params, parameters, sizeof parameters);
    return t;
}
void set_output(ggml_tensor* t) {
    if (made_ggml->fault() != Fault::no_output)
        put(t, at().flags, get<int32_t>(t, at().flags) | made_ggml->output_bit());
}
ggml_cgraph* new_graph(ggml_context*) {
    return as<ggml_cgraph>(a_graph);
}
void build_forward_expand(ggml_cgraph*, ggml_tensor* t) {
    put(t, at().flags, get<int32_t>(t, at().flags) | made_ggml->truth().flag_compute);
}
const char* op_name(ggml_op op) {
    return made_ggml->op_name(static_cast<uint32_t>(op));
}
const char* type_name(ggml_type type) {
    if (made_ggml->fault() == Fault::type_names) return "q1";
    return type == GGML_TYPE_F32 ? "f32" : type == GGML_TYPE_F16 ? "f16" : type == GGML_TYPE_I64 ? "i64" : "other";
}
ggml_backend_buffer_type_t backend_cpu_buffer_type() {
    return as<ggml_backend_buffer_type>(a_type);
}
ggml_backend_buffer_t backend_buft_alloc_buffer(ggml_backend_buffer_type_t, size_t) {
    return made_ggml->fault() == Fault::null_buffer ? nullptr : as<ggml_backend_buffer>(a_buffer);
}
void* backend_buffer_get_base(ggml_backend_buffer_t) {
    return memory_of_buffers;
}
void backend_buffer_free(ggml_backend_buffer_t) {}
ggml_status backend_tensor_alloc(ggml_backend_buffer_t buffer, ggml_tensor* t, void* where) {
    if (made_ggml->fault() == Fault::no_place) return GGML_STATUS_SUCCESS;
    put(t, at().buffer, buffer), put(t, at().data, where);
    made_ggml->mirror(t);
    return GGML_STATUS_SUCCESS;
}

#define ATTNSCOPE_MADE(name)                                                                                           \
    { "ggml_" #name, reinterpret_cast<void*>(static_cast<decltype(&::ggml_##name)>(name)) }
const std::map<std::string, void*>& functions() {
    static const std::map<std::string, void*> all = {ATTNSCOPE_MADE(init),
                                                     ATTNSCOPE_MADE(free),
                                                     ATTNSCOPE_MADE(tensor_overhead),
                                                     ATTNSCOPE_MADE(graph_overhead),
                                                     ATTNSCOPE_MADE(new_tensor_4d),
                                                     ATTNSCOPE_MADE(set_name),
                                                     ATTNSCOPE_MADE(view_1d),
                                                     ATTNSCOPE_MADE(add),
                                                     ATTNSCOPE_MADE(scale),
                                                     ATTNSCOPE_MADE(tanh),
                                                     ATTNSCOPE_MADE(mul_mat),
                                                     ATTNSCOPE_MADE(cont),
                                                     ATTNSCOPE_MADE(cpy),
                                                     ATTNSCOPE_MADE(reshape_1d),
                                                     ATTNSCOPE_MADE(permute),
                                                     ATTNSCOPE_MADE(transpose),
                                                     ATTNSCOPE_MADE(get_rows),
                                                     ATTNSCOPE_MADE(set_rows),
                                                     ATTNSCOPE_MADE(rope),
                                                     ATTNSCOPE_MADE(soft_max_ext),
                                                     ATTNSCOPE_MADE(flash_attn_ext),
                                                     ATTNSCOPE_MADE(set_output),
                                                     ATTNSCOPE_MADE(new_graph),
                                                     ATTNSCOPE_MADE(build_forward_expand),
                                                     ATTNSCOPE_MADE(op_name),
                                                     ATTNSCOPE_MADE(type_name),
                                                     ATTNSCOPE_MADE(backend_cpu_buffer_type),
                                                     ATTNSCOPE_MADE(backend_buft_alloc_buffer),
                                                     ATTNSCOPE_MADE(backend_buffer_get_base),
                                                     ATTNSCOPE_MADE(backend_buffer_free),
                                                     ATTNSCOPE_MADE(backend_tensor_alloc)};
    return all;
}

} // namespace

// Fields one behind the other in any order, with room of nobody between some of them.
MadeGgml::MadeGgml(uint64_t seed, Fault fault) : random_(seed), fault_(fault) {
    made_ggml = this;
    capture::GgmlTensorLayout& l = truth_.tensor;
    l.n_src = 6 + random_() % 5;
    struct Field {
        size_t* at;
        size_t bytes;
    };
    size_t nobody = 0, sources_and_view = 0;
    std::vector<Field> fields = {{&l.type, 4},       {&l.buffer, 8},   {&l.ne, 32},  {&l.nb, 32},   {&l.op, 4},
                                 {&l.op_params, 64}, {&l.flags, 4},    {&l.data, 8}, {&l.name, 64}, {&l.view_offs, 8},
                                 {&nobody, 8},       {&mirror_at_, 8}, {&nobody, 4}, {&nobody, 24}};
    sources_end_at_view_ = random_() % 4 != 0;
    if (sources_end_at_view_) {
        fields.push_back({&sources_and_view, 8 * l.n_src + 8});
    } else {
        fields.push_back({&l.src, 8 * l.n_src});
        fields.push_back({&l.view_src, 8});
    }
    std::shuffle(fields.begin(), fields.end(), random_);
    size_t end = 0;
    for (const Field& f : fields) {
        const size_t alignment = f.bytes % 8 == 0 ? 8 : 4;
        end = (end + alignment - 1) / alignment * alignment;
        *f.at = end;
        end += f.bytes;
    }
    if (sources_end_at_view_) l.src = sources_and_view, l.view_src = sources_and_view + 8 * l.n_src;
    l.size = (end + 7) / 8 * 8 + random_() % 5 * 8;
    overhead_ = fault == Fault::overhead ? (random_() % 2 == 0 ? 40 : size_t(1) << 40) : l.size + 32;
    size_t* const mirrored[] = {&l.data, &l.buffer, &l.view_src, &l.view_offs};
    mirrored_ = *mirrored[random_() % 4];

    std::vector<uint32_t> numbers(60 + random_() % 60);
    std::iota(numbers.begin(), numbers.end(), 0);
    std::shuffle(numbers.begin(), numbers.end(), random_);
    names_.assign(numbers.size(), "ANOTHER");
    has_set_rows_ = random_() % 4 != 0;
    for (size_t i = 0; i < std::size(known_ops); ++i) {
        const auto [op, name] = known_ops[i];
        numbers_[op] = numbers[i];
        names_[numbers[i]] = name;
        if (op != Op::set_rows || has_set_rows_) truth_.ops[numbers[i]] = op;
    }
    truth_.unary_tanh = static_cast<int32_t>(random_() % 30);
    const auto bit = static_cast<int32_t>(random_() % 4);
    output_bit_ = 1 << bit;
    truth_.flag_compute = random_() % 2 == 0 ? 0 : 1 << (bit + 1);
    auto hit = functions().begin();
    std::advance(hit, static_cast<ptrdiff_t>(random_() % functions().size()));
    hit_ = hit->first;
    if (fault == Fault::missing && hit_ == "ggml_set_rows")
        std::replace(truth_.ops.begin(), truth_.ops.end(), Op::set_rows, Op::other);
}

MadeGgml::~MadeGgml() {
    made_ggml = nullptr;
}

void* MadeGgml::function(const std::string& name) const {
    if ((fault_ == Fault::missing && name == hit_) || (name == "ggml_set_rows" && !has_set_rows_)) return nullptr;
    const auto found = functions().find(name);
    if (found != functions().end()) return found->second;
    // without the last of these it is one without devices
    for (const char* optional :
         {"ggml_set_abort_callback", "ggml_graph_compute_with_ctx", "ggml_backend_dev_get_props"}) {
        if (name == optional) return nullptr;
    }
    return reinterpret_cast<void*>(never);
}

const char* MadeGgml::op_name(uint32_t number) {
    if (number < names_.size()) return names_[number].c_str();
    asked_beyond_ = true;
    return "";
}

void MadeGgml::mirror(ggml_tensor* t) const {
    if (fault_ == Fault::twice) put(t, mirror_at_, get<uint64_t>(t, mirrored_));
}

ggml_tensor* MadeGgml::make(Op op, ggml_type type, const int64_t* shape, std::vector<ggml_tensor*> sources) {
    const capture::GgmlTensorLayout& l = truth_.tensor;
    std::unique_ptr<uint64_t[]>& room = memory_.emplace_back(new uint64_t[l.size / 8 + 8]);
    for (size_t i = 0; i < l.size / 8 + 8; ++i) room[i] = random_(); // what nobody has set is anything
    auto* t = reinterpret_cast<ggml_tensor*>(room.get());
    const auto clear = [&](size_t at_, size_t bytes) { std::memset(reinterpret_cast<char*>(t) + at_, 0, bytes); };
    clear(l.op_params, 64), clear(l.flags, 4), clear(l.src, 8 * l.n_src), clear(l.name, 64);
    clear(l.buffer, 8), clear(l.data, 8), clear(l.view_src, 8), clear(l.view_offs, 8);
    put(t, l.type, static_cast<int32_t>(type));
    put(t, l.op, numbers_.at(op));
    uint64_t stride = type == GGML_TYPE_F16 ? 2 : type == GGML_TYPE_I64 ? 8 : 4;
    for (size_t i = 0; i < 4; ++i) {
        put(t, l.ne + 8 * i, shape[i]);
        put(t, l.nb + 8 * i, stride);
        stride *= static_cast<uint64_t>(shape[i]);
    }
    for (size_t i = 0; i < sources.size(); ++i) put(t, l.src + 8 * i, sources[i]);
    mirror(t);
    return t;
}

} // namespace attnscope::test
