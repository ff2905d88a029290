// Runs the main of a library, as Node.js and Python load theirs: attach_loader LIBRARY local|deepbind ARGS...
// ATTACH_LOADER_NEXT: that one is let go, and this one loaded, whose main is run with the same arguments.
#include <cstdio>
#include <cstdlib>
#include <string>

#include <dlfcn.h>

static int run(const char* path, int argc, char** argv, bool let_go) {
    const int mode = std::string(argv[2]) == "deepbind" ? RTLD_DEEPBIND : 0;
    void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL | mode);
    const auto theirs = library ? reinterpret_cast<int (*)(int, char**)>(dlsym(library, "main")) : nullptr;
    if (!theirs) return std::fprintf(stderr, "%s\n", dlerror()), 2;
    const int code = theirs(argc - 2, argv + 2);
    if (let_go) dlclose(library);
    return code;
}

int main(int argc, char** argv) {
    if (argc < 3) return 2;
    const char* next = std::getenv("ATTACH_LOADER_NEXT");
    const int code = run(argv[1], argc, argv, next != nullptr);
    return code == 0 && next ? run(next, argc, argv, false) : code;
}
