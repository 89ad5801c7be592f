// expect: jet: a scan needs heads, head_k and head_v > 0
#include <jet/op/gated_scan.hpp>

jet::op::GatedScan<jet::op::ScanShape{.heads = 2, .head_k = 0, .head_v = 8}> scan;
