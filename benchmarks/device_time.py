"""How the programs that measure peers on a GPU take times."""

import statistics

import torch


def seconds(run, windows, calls=1, warm=3):
    """Median over windows of the time of a call, by events; the calls of a window are queued without waiting."""
    for _ in range(warm):
        run()
    torch.cuda.synchronize()
    times = []
    for _ in range(windows):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for _ in range(calls):
            run()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1e-3 / calls)
    return statistics.median(times)
