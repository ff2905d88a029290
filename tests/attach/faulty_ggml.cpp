// Functions of ggml that answer wrongly when they are asked for what the probe asks for, one at a time: ATTACH_FAULT names it. The
// program's own shapes are others.
#include <ggml-backend.h>
#include <ggml.h>

#include <cstdlib>
#include <cstring>

#include <dlfcn.h>

namespace {

bool fault(const char* name) {
    const char* wanted = std::getenv("ATTACH_FAULT");
    return wanted && std::strcmp(wanted, name) == 0;
}

template <typename F> F* real(F*, const char* name) {
    static void* const base = dlopen("libggml-base.so.0", RTLD_NOW | RTLD_NOLOAD);
    return reinterpret_cast<F*>(dlsym(base, name));
}
#define REAL(name) real(&name, #name)

} // namespace

extern "C" {

ggml_tensor* ggml_mul_mat(ggml_context* c, ggml_tensor* a, ggml_tensor* b) {
    const bool probe = a->ne[0] == 64 && a->ne[1] == 6;
    if (probe && fault("abort")) b = ggml_new_tensor_2d(c, GGML_TYPE_F32, 7, 2); // their inner sizes differ
    if (probe && fault("mul_mat")) return ggml_add(c, a, a);
    return REAL(ggml_mul_mat)(c, a, b);
}

ggml_tensor* ggml_view_1d(ggml_context* c, ggml_tensor* a, int64_t n, size_t offset) {
    if (a->ne[0] == 3 && fault("view_1d")) offset = 0;
    return REAL(ggml_view_1d)(c, a, n, offset);
}

ggml_tensor* ggml_flash_attn_ext(ggml_context* c, ggml_tensor* q, ggml_tensor* k, ggml_tensor* v, ggml_tensor* mask,
                                 float scale, float max_bias, float softcap) {
    if (k->ne[1] == 256 && fault("flash_attn_ext")) scale = 1;
    return REAL(ggml_flash_attn_ext)(c, q, k, v, mask, scale, max_bias, softcap);
}

void ggml_set_output(ggml_tensor* t) {
    if (t->ne[0] == 2 && fault("set_output")) return;
    REAL(ggml_set_output)(t);
}

size_t ggml_tensor_overhead() {
    return fault("tensor_overhead") && std::getenv("LD_PRELOAD") ? 64 * 1024 : REAL(ggml_tensor_overhead)();
}

const char* ggml_op_name(ggml_op op) {
    return fault("op_name") ? "ANOTHER" : REAL(ggml_op_name)(op);
}

const char* ggml_type_name(ggml_type type) {
    return fault("type_name") ? "another" : REAL(ggml_type_name)(type);
}

ggml_status ggml_backend_tensor_alloc(ggml_backend_buffer_t buffer, ggml_tensor* t, void* at) {
    if (t->ne[0] == 2 && t->ne[1] == 2 && fault("tensor_alloc")) return GGML_STATUS_SUCCESS;
    return REAL(ggml_backend_tensor_alloc)(buffer, t, at);
}

ggml_tensor* ggml_new_tensor_4d(ggml_context* c, ggml_type type, int64_t a, int64_t b, int64_t d, int64_t e) {
    if (a == 3 && fault("new_tensor_4d")) a = 4;
    return REAL(ggml_new_tensor_4d)(c, type, a, b, d, e);
}
}
