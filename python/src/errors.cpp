#include "errors.h"

namespace nb = nanobind;

namespace attnscope::python {

void bind_errors(nb::module_&) {
    nb::register_exception_translator([](const std::exception_ptr& p, void*) {
        try {
            std::rethrow_exception(p);
        } catch (const Failure& failure) {
            const nb::object from_kind = nb::module_::import_("attnscope.errors").attr("from_kind");
            const char* message = failure.error.message.c_str();
            // A path in a message need not be UTF-8.
            const nb::object text =
                nb::steal(PyUnicode_DecodeUTF8(message, Py_ssize_t(failure.error.message.size()), "replace"));
            const nb::object exception = from_kind(error_kind_name(failure.error.kind), text);
            PyErr_SetObject(reinterpret_cast<PyObject*>(Py_TYPE(exception.ptr())), exception.ptr());
        }
    });
}

} // namespace attnscope::python
