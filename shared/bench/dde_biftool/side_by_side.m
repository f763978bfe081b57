function side_by_side(sources, start, points, fold_points)
%% Branches of the Mackey-Glass equation by DDE-BIFTOOL 3.1.1 or 3.2, in Octave or MATLAB; called by __main__.py.
%
% sources: folder with ddebiftool, ddebiftool_utilities and ddebiftool_extra_psol
% start: file of numbers, the first row period and degree of a stable orbit at n = 12, tau = 2, then mesh and profile
% points, fold_points: of the branch from the Hopf point, of the curve of folds (0: none)
%
% Prints lines "RESULT name = value". The parameters are (n, tau); beta = 2, gamma = theta = 1.
folders = {'ddebiftool', 'ddebiftool_utilities', 'ddebiftool_extra_psol', 'ddebiftool_extra_nmfm'};
for i = 1:numel(folders)
    addpath(fullfile(sources, folders{i}));
end
funcs = set_funcs('sys_rhs', @rhs, 'sys_tau', @() 2, 'sys_deri', @derivatives, 'x_vectorized', true);
orbits = principal_branch(funcs, points);
period_doubling(funcs, orbits);
[fold_funcs, folds] = fold(funcs, orbits.point(end), start);
if fold_points > 0
    fold_curve(funcs, fold_funcs, folds, fold_points);
end
report('done', 1);
end

function orbits = principal_branch(funcs, points)
%% From the Hopf point, with multipliers.
equilibria = SetupStst(funcs, 'x', 1, 'parameter', [5.03, 2], 'contpar', 1, 'step', 0.01);
point = equilibria.point(1);
point.stability = p_stabil(funcs, point, equilibria.method.stability);
method = df_mthod(funcs, 'hopf');
[hopf, ok] = p_correc(funcs, p_tohopf(funcs, point), 1, [], method.point);
check(ok, 'the Hopf point');
report('Hopf n', hopf.parameter(1));
[orbits, ok] = SetupPsol(funcs, equilibria, 1, 'contpar', 1, 'intervals', 50, 'degree', 5, 'radius', 0.02, ...
    'max_bound', [1, 20], 'max_step', [1, 0.16]);
check(ok, 'the first orbit');
orbits = quiet(orbits);
tic;
orbits = br_contn(funcs, orbits, points - 2);
report('branch seconds', toc);
tic;
orbits = br_stabl(funcs, orbits, 0, 0);
report('multipliers seconds', toc);
report('branch points', numel(orbits.point));
report('branch last n', orbits.point(end).parameter(1));
end

function period_doubling(funcs, orbits)
%% The first one along the branch, where a real multiplier goes through -1, at tau = 2.
least = arrayfun(@(p) least_real(p.stability.mu), orbits.point);
k = find(least(1:end-1) > -1 & least(2:end) <= -1, 1);
if isempty(k)
    return
end
tic;
[pd_funcs, branch, ok] = SetupPeriodDoubling(funcs, orbits, k, 'contpar', [1, 2]);
check(ok, 'the period doubling');
report('PD1 n', at_delay(pd_funcs, branch));
report('PD1 seconds', toc);
end

function [fold_funcs, folds] = fold(funcs, template, start)
%% That of the long cycle, at tau = 2.
data = dlmread(start, ',');
orbit = template;
orbit.stability = [];
orbit.parameter = [12, 2];
orbit.period = data(1, 1);
orbit.degree = data(1, 2);
orbit.mesh = data(2:end, 1)';
orbit.profile = data(2:end, 2)';
branch = quiet(df_brnch(funcs, 1, 'psol'));
branch.parameter.min_bound = [branch.parameter.min_bound; 1, 10];
branch.parameter.max_bound = [1, 13];
branch.parameter.max_step = [1, 0.16];
[first, ok] = p_correc(funcs, orbit, [], [], branch.method.point);
check(ok, 'the orbit at n = 12');
second = first;
second.parameter(1) = 11.95;
[second, ok] = p_correc(funcs, second, [], [], branch.method.point);
check(ok, 'the orbit at n = 11.95');
branch.point = [first, second];
branch = br_contn(funcs, branch, 40);
[~, k] = min(arrayfun(@(p) p.parameter(1), branch.point));
tic;
[fold_funcs, folds, ok] = SetupPOfold(funcs, branch, k, 'contpar', [1, 2], 'dir', 2, 'step', -0.01, ...
    'min_bound', [2, 1], 'max_bound', [1, 26; 2, 4], 'max_step', [1, 0.1; 2, 0.1]);
check(ok, 'the fold');
report('fold n', at_delay(fold_funcs, folds));
report('fold seconds', toc);
end

function fold_curve(funcs, fold_funcs, folds, points)
%% In n and tau, towards smaller delays, with multipliers.
method = df_mthod(funcs, 'psol');
tic;
folds = br_contn(fold_funcs, folds, points - 2);
report('fold curve seconds', toc);
tic;
orbits = fold_funcs.get_comp(folds.point, 'solution');
for i = 1:numel(orbits)
    p_stabil(funcs, orbits(i), method.stability);
end
report('fold curve multipliers seconds', toc);
report('fold curve points', numel(folds.point));
end

function n = at_delay(funcs, branch)
%% n of the first point of a curve of bifurcations, moved to tau = 2.
free = branch.parameter.free;
free(free == 2) = [];
point = branch.point(1);
point.parameter(2) = 2;
[point, ok] = p_correc(funcs, point, free, [], branch.method.point, 0, point);
check(ok, 'a bifurcation at tau = 2');
n = point.parameter(1);
end

function branch = quiet(branch)
%% Without plots: there may be no screen.
branch.method.continuation.plot = 0;
branch.method.continuation.plot_progress = 0;
end

function least = least_real(mu)
%% The smallest real multiplier; 0 if there is none.
mu = mu(:);
least = min([0; real(mu(abs(imag(mu)) < 1e-6))]);
end

function y = rhs(x, p)
u = max(x(1, 2, :), 1e-6);
y = 2 * u ./ (1 + u.^p(1)) - x(1, 1, :);
end

function J = derivatives(x, p, nx, np, v)
%% Those that DDE-BIFTOOL asks for: by states nx (0: x(t), 1: x(t - tau)) and parameters np, the second ones times v.
u = max(x(1, 2, :), 1e-6);
n = p(1);
s = u.^n;
J = zeros(1, 1, size(x, 3));
if isempty(v) && isempty(np)
    if nx == 0
        J(:) = -1;
    else
        J(:) = 2 * (1 + (1 - n) * s) ./ (1 + s).^2;
    end
elseif isempty(v) && isempty(nx)
    if np == 1
        J(:) = -2 * u .* s .* log(u) ./ (1 + s).^2;
    end
elseif isempty(v)
    if nx == 1 && np == 1
        t = s .* log(u);
        J(:) = 2 * (((1 - n) * t - s) .* (1 + s) - 2 * t .* (1 + (1 - n) * s)) ./ (1 + s).^3;
    end
elseif all(nx == 1)
    J(:) = 2 * n * s ./ u .* ((n - 1) * s - (n + 1)) ./ (1 + s).^3 .* reshape(v, 1, 1, []);
end
end

function check(ok, what)
if ~ok
    error('side_by_side:failed', 'DDE-BIFTOOL did not find %s', what);
end
end

function report(name, value)
fprintf('RESULT %s = %.15g\n', name, value);
end
