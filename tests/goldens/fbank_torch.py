"""Log-mel front end of SSAMBA, without torchaudio."""
import torch
import torch.nn.functional as F

FLOOR = 1.1920928955078125e-07   # f32 machine epsilon
# name: (mean, std, target frames)
STATS = {
    "asli": (-4.2677393, 4.5689974, 1024),
    "audioset": (-4.2677393, 4.5689974, 1024),
    "esc50": (-6.6268077, 5.358466, 512),
    "speechcommands": (-6.845978, 5.5654526, 128),
    "urban8k": (-5.138443946838379, 4.229961395263672, 6144),
    "superb": (-4.2677393, 4.5689974, 1000),
}


def mel_bank(bins=128, rate=16000.0, fft=512, low=20.0):
    """(bins, fft/2 + 1) triangular weights in the HTK mel domain; the Nyquist column is zero."""
    mel = lambda hz: 1127.0 * torch.log(1.0 + torch.as_tensor(hz) / 700.0)
    lo, hi = mel(low).item(), mel(rate / 2).item()
    step = (hi - lo) / (bins + 1)
    left = lo + torch.arange(bins)[:, None] * step
    m = mel(rate / fft * torch.arange(fft // 2))[None]
    up, down = (m - left) / step, (left + 2 * step - m) / step
    return F.pad(torch.minimum(up, down).clamp(min=0.0), (0, 1))


def fbank(wave, rate=16000, bins=128):
    """wave: (channels, n) in [-1, 1); only channel 0 is read. Returns (frames, bins)."""
    win, hop = int(rate * 0.025), int(rate * 0.010)
    fft = 1 << (win - 1).bit_length()
    x = wave[0].unfold(0, win, hop)                      # floor: 1 + (n - win) // hop frames
    x = x - x.mean(1, keepdim=True)
    x = x - 0.97 * torch.cat([x[:, :1], x[:, :-1]], dim=1)
    x = x * torch.hann_window(win, periodic=False)
    power = torch.fft.rfft(F.pad(x, (0, fft - win))).abs() ** 2
    return (power @ mel_bank(bins, float(rate), fft).T).clamp(min=FLOOR).log()


def model_input(wave, task, rate=16000):
    """PSLA pipeline: clip mean removed, fbank, zero-pad or cut, then normalise (so padding is -mean/(2 std))."""
    mean, std, frames = STATS[task]
    y = fbank(wave - wave.mean(), rate)
    y = F.pad(y, (0, 0, 0, frames - y.shape[0])) if y.shape[0] < frames else y[:frames]
    return (y - mean) / (2 * std)


def superb_input(wave, frames=1000):
    """SUPERB pipeline: no clip mean, normalise first, so padding is 0."""
    mean, std, _ = STATS["superb"]
    y = (fbank(wave) - mean) / (2 * std)
    return F.pad(y, (0, 0, 0, frames - y.shape[0])) if y.shape[0] < frames else y[:frames]
