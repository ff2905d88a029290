// The address alone, as a person gives it to a browser: the program's own page is shown as it is; where it has none, ours lies under
// /view/.
#include "server/front/front_service.h"
#include "server/view/routes.h"

#include <memory>

namespace attnscope::server {

void first_page(FrontService& service, const httplib::Request& request, httplib::Response& response) {
    if (!wants_first_page(request)) return pass_on(service, request, response);
    const auto upstream = std::make_shared<Upstream>(service.options.to, request_to_program(request));
    Result<Upstream::Head> head = upstream->head(gone_away(request, service));
    if (!head) return refuse_unreached(response, request, head.error());
    if (head->status == 404) return response.set_redirect("/view/");
    pass_answer_on(service, request, response, upstream, *head);
}

} // namespace attnscope::server
