// What the viewer in a notebook asks for.
#include "bindings.h"
#include "errors.h"

#include <attnscope/page_answers.h>

#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

namespace nb = nanobind;

namespace attnscope::python {

void bind_page(nb::module_& m) {
    nb::class_<PageAnswers>(m, "PageAnswers", "The routes of the viewer's page over recordings, without a server.")
        .def_static(
            "open",
            [](const std::vector<std::string>& paths) {
                const nb::gil_scoped_release unlocked;
                return value(PageAnswers::open(paths));
            },
            nb::arg("paths"))
        .def(
            "answer",
            [](PageAnswers& answers, const std::string& path, const std::string& query) {
                PageAnswer answer;
                {
                    const nb::gil_scoped_release unlocked;
                    answer = answers.answer(path, query);
                }
                return nb::make_tuple(answer.status, nb::bytes(answer.body.data(), answer.body.size()));
            },
            nb::arg("path"), nb::arg("query"), "(status, body) of GET /view/api/PATH?QUERY.");
}

} // namespace attnscope::python
