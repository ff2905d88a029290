// Halo Weave's words in front of KoboldCPP, which generates one text at a time and tells its pieces alone: which token each is, and
// where its row is, is told by what it was seen to decode.
#pragma once

#include "server/front/front_service.h"
#include "server/front/kobold_program.h"

namespace attnscope::server {

KoboldProgram kobold_of(const FrontService& service, const httplib::Request& request);
// Each refuses what it cannot do.
void stream_from_kobold(FrontService& service, const httplib::Request& request, httplib::Response& response);
void model_of_kobold(FrontService& service, const httplib::Request& request, httplib::Response& response);
void tokenize_by_kobold(FrontService& service, const httplib::Request& request, httplib::Response& response,
                        const std::string& text, bool add_special, bool pieces);

} // namespace attnscope::server
