"""HistFactory specifications in pyhf's form that tests and benchmarks share."""

import numpy as np


def modifier(name, kind, data=None):
    return {"name": name, "type": kind, "data": data}


def sample(name, data, *modifiers):
    return {"name": name, "data": np.asarray(data, dtype=float).tolist(), "modifiers": list(modifiers)}


class Specs:
    """Specifications in pyhf's form: the models of the reference tables, and random ones with every modifier."""

    lumi = {"name": "lumi", "auxdata": [1.0], "sigmas": [0.02], "inits": [1.0], "bounds": [[0.5, 1.5]]}  # noqa: RUF012

    modifier, sample = staticmethod(modifier), staticmethod(sample)

    def yields(self, n):
        """Signal, background, its uncertainty and observed counts of the reference models U(n) and G(n)."""
        if n == "REF":
            return np.array([12.0, 11.0]), np.array([50.0, 52.0]), np.array([3.0, 7.0]), np.array([51.0, 48.0])
        x = (np.arange(n) + 0.5) / n
        w, g = np.exp(-2 * x), np.exp(-0.5 * ((x - 0.5) / 0.15) ** 2)
        b, s = 1000 * w / w.sum(), 60 * g / g.sum()
        return s, b, 0.1 * b, np.rint(b + 0.5 * s + np.sqrt(b) * np.sin(7 * np.arange(n) + 1))

    def counting(self, s, b, db, kind="shapesys"):
        signal = self.sample("sig", s, self.modifier("mu", "normfactor"))
        background = self.sample("bkg", b, self.modifier("unc", kind, np.asarray(db).tolist()))
        return [{"name": "c", "samples": [signal, background]}]

    def smooth(self):
        """A well-behaved search: 12 bins, two backgrounds, systematics of a few per cent, all errors Gaussian."""
        x = (np.arange(12) + 0.5) / 12
        s, b1, b2 = 40 * np.exp(-0.5 * ((x - 0.5) / 0.12) ** 2), 900 * np.exp(-2 * x), 200 + 150 * x
        tilt = {"hi_data": (b1 * (1 + 0.04 * (x - 0.5))).tolist(), "lo_data": (b1 * (1 - 0.04 * (x - 0.5))).tolist()}
        eff = self.modifier("eff", "normsys", {"hi": 1.03, "lo": 0.972})
        stat = lambda b: self.modifier("stat", "staterror", (0.02 * b).tolist())
        lumi = self.modifier("lumi", "lumi")
        signal = self.sample("sig", s, self.modifier("mu", "normfactor"), eff, lumi)
        tilt = self.modifier("tilt", "histosys", tilt)
        first = self.sample("bkg1", b1, tilt, self.modifier("x1", "normsys", {"hi": 1.05, "lo": 0.95}), stat(b1), lumi)
        second = self.sample("bkg2", b2, self.modifier("norm2", "normfactor"), eff, stat(b2))
        observed = np.rint(0.8 * s + 1.02 * b1 + 0.97 * b2 + 10 * np.sin(5 * x))
        return [{"name": "SR", "samples": [signal, first, second]}], [self.lumi], observed

    def big(self):
        """BIG: 8 channels x 25 bins, 5 samples, 265 parameters."""
        channels, observed = [], []
        j = np.arange(25)
        x = (j + 0.5) / 25
        for c in range(8):
            samples, total = [], 0
            for k in range(5):
                peak = 12 * (1 + 0.1 * c) * np.exp(-0.5 * ((x - 0.5) / 0.12) ** 2)
                fall = (400 / max(k, 1)) * np.exp(-(1 + 0.4 * k) * x) * (1 + 0.05 * ((c + k) % 4)) / 4 + 2
                nominal = fall if k else peak
                mods = [self.modifier("lumi", "lumi")]
                mods += [self.modifier("mu", "normfactor")] if k == 0 else []
                mods += [self.modifier(f"norm_bkg{k - 1}", "normfactor")] if k in (1, 2, 3) else []
                for q in range(40):
                    if (q + k + c) % 5 == 0:
                        a = 0.02 + 0.01 * (q % 6)
                        mods.append(self.modifier(f"ns{q}", "normsys", {"hi": 1 + a, "lo": 1 - 0.9 * a}))
                for q in range(20):
                    if (q + k + 2 * c) % 4 == 0:
                        change = (0.03 + 0.01 * (q % 4)) * np.sin(1.3 * (q + 1) * x + 0.4 * k)
                        hi, lo = nominal * (1 + change), nominal * (1 - 0.8 * change)
                        pair = {"hi_data": hi.tolist(), "lo_data": lo.tolist()}
                        mods.append(self.modifier(f"hs{q}", "histosys", pair))
                error = np.sqrt((0.3 if k else 0.02) * nominal) + 0.001
                mods.append(self.modifier(f"stat_ch{c}", "staterror", error.tolist()))
                samples.append(self.sample(f"bkg{k - 1}" if k else "sig", nominal, *mods))
                total = total + nominal * (1 if k else 0.5)
            channels.append({"name": f"ch{c}", "samples": samples})
            observed.append(np.rint(total + 0.7 * np.sqrt(total) * np.sin(7 * j + c + 1)))
        settings = [self.lumi, {"name": "mu", "inits": [1.0], "bounds": [[-5.0, 10.0]]}]
        return channels, settings, np.concatenate(observed)

    def random(self, seed):
        """A workspace of 1-3 channels with a random choice of all seven modifiers, some bins empty."""
        rng = np.random.default_rng(seed)
        channels, observed = [], []
        for c in range(1 + seed % 3):
            bins, samples, total = int(rng.integers(1, 6)), [], 0
            for s in range(int(rng.integers(2, 5))):
                data = np.where(rng.random(bins) < 0.1, 0.0, rng.uniform(1, 100, bins))
                mods = [self.modifier("mu", "normfactor")] if s == 0 else []
                mods += [self.modifier("lumi", "lumi")] if rng.random() < 0.5 else []
                mods += [self.modifier(f"norm{s}", "normfactor")] if rng.random() < 0.3 else []
                for q in range(3):
                    if rng.random() < 0.5:
                        hi, lo = rng.uniform(0.8, 1.25, 2)
                        mods.append(self.modifier(f"both{q}", "normsys", {"hi": hi, "lo": lo}))
                    if rng.random() < 0.5:
                        hi, lo = data * rng.uniform(0.8, 1.25, bins), data * rng.uniform(0.8, 1.25, bins)
                        pair = {"hi_data": hi.tolist(), "lo_data": lo.tolist()}
                        mods.append(self.modifier(f"both{q}" if q else "shape", "histosys", pair))
                if rng.random() < 0.6:
                    error = np.where(rng.random(bins) < 0.2, 0.0, rng.uniform(0.02, 0.3, bins) * data)
                    mods.append(self.modifier(f"stat{c}", "staterror", error.tolist()))
                if rng.random() < 0.4:
                    error = np.where(rng.random(bins) < 0.2, 0.0, rng.uniform(0.02, 0.3, bins) * data)
                    mods.append(self.modifier(f"unc{c}{s}", "shapesys", error.tolist()))
                if seed % 4 == 3 and s == 1:
                    mods.append(self.modifier(f"free{c}", "shapefactor"))
                samples.append(self.sample(f"s{s}", data, *mods))
                total = total + data
            channels.append({"name": f"c{c}", "samples": samples})
            observed.append(rng.poisson(total).astype(float))
        return channels, [self.lumi], np.concatenate(observed)
