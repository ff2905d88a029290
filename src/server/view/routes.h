// The routes of the page: GET only, under /view/. Same Host, Origin and key rules as everything else of the server.
#pragma once

#include "server/view/sources.h"

#include <httplib.h>

#include <map>
#include <string>

namespace attnscope::server {

// What GET /view/api/NAME answers. `live`: there is a model that can write. `sources` outlives what is returned.
using ViewRoutes = std::map<std::string, httplib::Server::Handler>;
ViewRoutes view_routes(ViewSources& sources, bool live);

void add_view_page(httplib::Server& http);
// `sources` outlives `http`.
void add_view_routes(httplib::Server& http, ViewSources& sources, bool live);

// GET, or HEAD, which is answered as it is.
bool is_get(const httplib::Request& request);
// Paths of the page that hold nothing of anybody: they need no key, for a browser cannot send one with a script's address.
bool is_view_page(const std::string& path);
// Did a person give this server's address, and nothing else, to a browser?
bool wants_first_page(const httplib::Request& request);

} // namespace attnscope::server
